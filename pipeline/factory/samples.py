"""Samples that a model is calibrated and measured on: texts or images, with the right answer where it is known."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Sample"]


class Sample(Struct, frozen=True, kw_only=True):
    """One input.

    Attributes:
        text: of a text model; the prompt or question of an image-to-text model.
        image: an encoded image (JPEG, PNG or WebP) of an image model.
        answer: the right label, or the text that should follow; ``None`` where nobody knows.
    """

    text: str | None = None
    image: bytes | None = None
    answer: str | None = None
