"""Transformer encoders of texts and images: graphs written from weights."""
