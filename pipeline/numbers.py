"""Types of numbers that settings, cards and configurations share."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

__all__ = ["Positive"]

Positive = Annotated[int, Meta(ge=1)]
"""A size or a count."""
