"""Graphs that torch exports, and what is cleaned up in them."""
