"""Weights set to zero, and neurons removed."""
