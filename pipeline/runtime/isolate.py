"""Find the record that makes a batch fail, so that its batch mates are served."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from pipeline.runtime.session import SessionError

__all__ = ["run_isolated"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_isolated(
    run: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]
) -> list[Result | SessionError]:
    """Run ``items`` as one batch; if that fails twice, halve until the culprits stand alone.

    Args:
        run: one result for each item, in order; raises SessionError. It is only ever given neighbours.
        items: the batch.

    Returns:
        For each item its result, or the error of its own run.
    """
    try:
        return _checked(run, items)
    except SessionError:
        return _bisect(run, items)


def _bisect(run: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]) -> list[Result | SessionError]:
    try:
        return _checked(run, items)
    except SessionError as error:
        if len(items) == 1:
            return [error]
    middle = len(items) // 2
    return _bisect(run, items[:middle]) + _bisect(run, items[middle:])


def _checked(run: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]) -> list[Result | SessionError]:
    results = run(items)
    if len(results) != len(items):
        raise SessionError(f"a batch of {len(items)} records gave {len(results)} results")
    return list(results)
