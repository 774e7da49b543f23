"""What fills the slots of a dialogue: names from a list, numbers at random; one value for the whole dialogue."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

import numpy as np

__all__ = ["SlotValues", "draw_slots", "slot_values"]

SlotValues = dict[str, list[str]]
LISTED = ("product", "name", "city", "day")
MAILBOXES = ("post", "mail", "hello", "info", "anna", "tom", "lin", "wang", "marie", "jan", "chen", "sofia")
HOSTS = ("example.org", "example.com", "example.net")


@cache
def slot_values(path: Path) -> dict[str, SlotValues]:
    """The lists in ``slots.toml``, by language."""
    values: dict[str, SlotValues] = tomllib.loads(path.read_text(encoding="utf-8"))
    for language, lists in values.items():
        lists["language"] = [language]
    return values


def draw_slots(values: SlotValues, rng: np.random.Generator) -> dict[str, str]:
    """A value for every slot."""
    cents = int(rng.integers(5, 200)) * 10 + int(rng.integers(0, 10))
    amount = f"{cents / 10:.1f}0 euros" if values["language"] == ["en"] else f"{cents}元"
    return {
        **{slot: str(rng.choice(values[slot])) for slot in LISTED},
        "order": str(rng.integers(10_000, 100_000)),
        "tracking": f"MR{rng.integers(10_000_000, 100_000_000)}",
        "amount": amount,
        "email": f"{rng.choice(MAILBOXES)}{rng.integers(10, 100)}@{rng.choice(HOSTS)}",
    }
