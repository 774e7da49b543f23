"""Find the record that makes a batch fail, so that its batch mates are served.

First it is supposed that one record is to blame. The suspects are halved: one half runs, and with it all that were put
aside since a run last succeeded. If that succeeds, they are served and the culprit is in the other half; if it fails,
the culprit is in this half and the other one is put aside. So ceil(log2 n) runs leave one suspect, and one more settles
it: the suspect alone if everybody else is served, or else everybody else without it.

If that fails too, there are several culprits, or the batch is too large for the device's memory, or the session is
lost. Then nothing is supposed: a blank run tells whether the session lives, and every part that fails is halved until
it succeeds or is one record.

What holds, whatever fails and whenever: a record is blamed only when it failed alone, or when no run failed without it,
two in a row failed with it, and all that were in these then succeeded together without it. And the session is seen to
work, by a run without it, right before or right after the failure that it is blamed for. No run is larger than the
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from pipeline.runtime.session import SessionError
from pipeline.tasks.task import StepObserver

__all__ = ["run_batch"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Run = Callable[[Sequence[Item]], Sequence[Result]]


def run_batch(
    run: Run[Item, Result],
    items: Sequence[Item],
    *,
    isolate: bool,
    probe: Callable[[], None],
    observe: StepObserver,
) -> list[Result | SessionError]:
    """Run ``items`` as one batch; if that fails, raise or find the culprits.

    Args:
        run: one result for each item, in order; raises SessionError. It is given items in their order, none twice.
        items: the batch.
        isolate: whether to find the culprits. For one among n it takes at most ceil(log2 n) + 1 more runs.
        probe: runs an input known to be good; raises, and ends this call with it, when that fails too.
        observe: told of each run that fails, and of a batch about to be divided.

    Returns:
        For each item its result, or the error to blame on it.

    Raises:
        SessionError: the batch failed, and ``isolate`` is false.
    """
    batch, places = _Batch(run, items, probe, observe), range(len(items))
    if not isolate:
        return [*batch.rows(places)]
    error = batch.attempt(places)
    if error is not None:
        if len(items) > 1:
            observe("bisection", 1)
        batch.find_culprit(error)
    return [batch.results[place] for place in places]


class _Batch(Generic[Item, Result]):
    """Items by their places, and the results found so far."""

    def __init__(
        self, run: Run[Item, Result], items: Sequence[Item], probe: Callable[[], None], observe: StepObserver
    ) -> None:
        self._run, self._items, self._probe, self._observe = run, items, probe, observe
        self._doubts = 1
        """Failed runs since one succeeded; the batch begins with one, for nothing is known of the session."""
        self.results: dict[int, Result | SessionError] = {}

    def rows(self, places: Sequence[int]) -> Sequence[Result]:
        """Run the items at ``places``. Raises SessionError."""
        try:
            return self._as_many([self._items[place] for place in places])
        except SessionError:
            self._observe("failure", 1)
            raise

    def _as_many(self, items: list[Item]) -> Sequence[Result]:
        found = self._run(items)
        if len(found) != len(items):
            raise SessionError(f"a batch of {len(items)} records gave {len(found)} results")
        return found

    def attempt(self, places: Sequence[int]) -> SessionError | None:
        """Run the items at ``places`` and keep their results, or give the error back."""
        try:
            found = self.rows(places)
        except SessionError as error:
            self._doubts += 1
            # A fresh one: the traceback would keep the session alive that may have to make room for a new one.
            return SessionError(str(error))
        self._doubts = 0
        self.results.update(zip(places, found, strict=True))
        return None

    def find_culprit(self, error: SessionError) -> None:
        """Settle a batch that has failed with ``error``, supposing that one item is to blame."""
        suspects, aside = list(range(len(self._items))), list[int]()
        while len(suspects) > 1:
            first, second = _halves(suspects)
            failure = self.attempt(sorted(aside + first))
            if failure is None:
                suspects, aside = second, []
            else:
                suspects, aside, error = first, sorted(aside + second), failure
        if len(self._items) == 1:
            self._blame(suspects[0], error)
        elif not aside:
            self._serve(suspects)
        elif self.attempt(aside) is None:
            self._blame(suspects[0], error)
        else:
            self._check_session()
            self._serve(suspects)
            self._divide(aside)

    def _serve(self, places: list[int]) -> None:
        """Run the items at ``places``; those that fail alone are to blame."""
        error = self.attempt(places)
        if error is None:
            return
        if len(places) == 1:
            self._blame(places[0], error)
        else:
            self._divide(places)

    def _divide(self, places: list[int]) -> None:
        for half in _halves(places):
            if half:
                self._serve(half)

    def _blame(self, place: int, error: SessionError) -> None:
        self._check_session()
        self.results[place] = error

    def _check_session(self) -> None:
        # One failure right after a success is a record's. Two in a row may be the session's.
        if self._doubts > 1:
            self._probe()
            self._doubts = 0


def _halves(places: list[int]) -> tuple[list[int], list[int]]:
    middle = (len(places) + 1) // 2
    return places[:middle], places[middle:]
