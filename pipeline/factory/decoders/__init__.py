"""Decoders with a KV cache: graphs written from weights, and what is read of their configurations."""
