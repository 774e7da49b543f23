"""Find the record that makes a batch fail, so that its batch mates are served.

A failed batch is halved. If the first half runs, its records are served and the culprit is in the second; if it fails,
the second half is put aside as innocent until the culprit is found. So each halving costs one run, the culprit gets one
more of its own, and those put aside share one: at most log2(n) + 2 runs beside the failed one for one culprit among n.
A failure that passes by itself costs about the work of one more batch, and nobody notices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from pipeline.runtime.session import SessionError

__all__ = ["run_isolated"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Run = Callable[[Sequence[Item]], Sequence[Result]]


def run_isolated(
    run: Run[Item, Result], items: Sequence[Item], *, neighbours: bool = False
) -> list[Result | SessionError]:
    """Run ``items`` as one batch; if that fails, halve until each culprit has failed alone.

    Args:
        run: one result for each item, in order; raises SessionError.
        items: the batch.
        neighbours: ``run`` is only ever given items that stand side by side, at the price of more runs.

    Returns:
        For each item its result, or the error of its own run.
    """
    results: dict[int, Result | SessionError] = {}
    _run(run, items, list(range(len(items))), results, neighbours)
    return [results[index] for index in range(len(items))]


def _run(
    run: Run[Item, Result],
    items: Sequence[Item],
    places: list[int],
    results: dict[int, Result | SessionError],
    neighbours: bool,
) -> None:
    """Run the items at ``places``; isolate the culprit if that fails."""
    if _try(run, items, places, results) is None:
        return
    aside: list[list[int]] = []
    while len(places) > 1:
        first, second = places[: len(places) // 2], places[len(places) // 2 :]
        if _try(run, items, first, results) is None:
            places = second
        else:
            places = first
            aside.append(second)
    if (error := _try(run, items, places, results)) is not None:
        results[places[0]] = error
    for rest in aside if neighbours else _together(aside):
        _run(run, items, rest, results, neighbours)


def _together(groups: list[list[int]]) -> list[list[int]]:
    places = sorted(place for group in groups for place in group)
    return [places] if places else []


def _try(
    run: Run[Item, Result], items: Sequence[Item], places: list[int], results: dict[int, Result | SessionError]
) -> SessionError | None:
    """Run the items at ``places`` and keep their results, or give the error back."""
    try:
        found = run([items[place] for place in places])
    except SessionError as error:
        return error
    if len(found) != len(places):
        return SessionError(f"a batch of {len(places)} records gave {len(found)} results")
    results.update(zip(places, found, strict=True))
    return None
