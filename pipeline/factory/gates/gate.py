"""What a variant must keep to be admitted: bounds of its figures, and the same result whoever shares its batch."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

__all__ = ["INVARIANT", "Gate", "broken_bounds", "broken_invariance"]

INVARIANT = "max_difference_in_other_batches"
"""The figure of batch invariance: the most that a number of a result moves when other records share its batch."""


class Gate(Struct, frozen=True, kw_only=True):
    """The bounds that a variant must keep to be admitted, by figure."""

    at_least: dict[str, float] = {}
    at_most: dict[str, float] = {}


def broken_bounds(measured: Mapping[str, float], gate: Gate) -> list[str]:
    """What is out of its bound, in words; so is a figure that is not a number, and one that was not measured."""
    bounds = [(name, low, "at least") for name, low in gate.at_least.items()]
    bounds += [(name, high, "at most") for name, high in gate.at_most.items()]
    broken = []
    for name, bound, words in bounds:
        value = measured.get(name)
        if value is None:
            broken.append(f"{name} was not measured, {words} {bound} is asked")
        elif not (value >= bound if words == "at least" else value <= bound):
            broken.append(f"{name} is {value}, {words} {bound} is asked")
    return broken


def broken_invariance(measured: Mapping[str, float]) -> list[str]:
    """Why batch invariance is not shown, in words: nothing but a measured 0 shows it."""
    moved = measured.get(INVARIANT)
    if moved == 0:
        return []
    if moved is None:
        return [f"{INVARIANT} was not measured"]
    return [f"it is not batch-invariant: a result moves by {moved:g} when other records share its batch"]
