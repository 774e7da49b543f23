"""Saying the same in other words: phrases are swapped for others at random while training."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

__all__ = ["Swap", "read_swaps", "swap_phrases"]

# A pattern, and what a find may be replaced with.
Swap = tuple[re.Pattern[str], tuple[str, ...]]
SHARE = 0.5


@cache
def read_swaps(path: Path) -> dict[str, tuple[Swap, ...]]:
    """The phrases in ``swaps.toml``, by language."""
    languages = tomllib.loads(path.read_text(encoding="utf-8"))
    return {
        language: tuple((re.compile(pattern), tuple(others)) for pattern, *others in lists)
        for language, lists in languages.items()
    }


def swap_phrases(text: str, swaps: tuple[Swap, ...], rng: np.random.Generator) -> str:
    """``text`` with about half of the known phrases in it said in other words."""
    for pattern, others in swaps:
        if rng.random() < SHARE:
            text = pattern.sub(_pick(others, rng), text)
    return text


def _pick(others: tuple[str, ...], rng: np.random.Generator) -> Callable[[re.Match[str]], str]:
    return lambda _: str(rng.choice(others))
