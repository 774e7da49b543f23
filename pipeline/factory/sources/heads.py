"""Attention heads as a ``config.json`` gives them, and what must be true of them."""

from __future__ import annotations

from pipeline.errors import ModelError

__all__ = ["check_heads"]


def check_heads(heads: int, width: int, where: str) -> None:
    """Raise ModelError where ``heads`` do not divide ``width`` into equal parts; ``where`` is for the message."""
    if width % heads:
        raise ModelError(f"{where}: its config.json has {heads} heads in a width of {width}: no equal parts.")
