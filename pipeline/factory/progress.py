"""How what takes long says what it is doing."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress"]

Progress = Callable[[str], None]
"""Told what is going on, in a few words."""
