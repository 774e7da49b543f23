"""Numbers that a ``config.json`` gives of a model's layers, and what must be true of them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from pipeline.errors import ModelError

__all__ = ["Positive", "check_heads"]

Positive = Annotated[int, Meta(ge=1)]
"""A size or a count of a configuration."""


def check_heads(heads: int, width: int, where: str) -> None:
    """Raise ModelError where ``heads`` do not divide ``width`` into equal parts; ``where`` is for the message."""
    if width % heads:
        raise ModelError(f"{where}: its config.json has {heads} heads in a width of {width}: no equal parts.")
