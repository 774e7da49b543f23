"""The lanes of an engine: those that take requests, and those beside them that are opened or finish.

A lane is replaced without a request noticing: the new one is opened and warmed up beside the old one, then requests go
to the new one while the old one finishes what it holds; then its session and its memory are given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pipeline.errors import EngineError
from pipeline.lane import Lane
from pipeline.metrics import Metrics

__all__ = ["Lanes"]

POLL_S = 0.02


class Lanes:
    """The lanes that take requests, in the order of the settings. On the event loop, but for :meth:`join`.

    Args:
        lanes: not started.
        metrics: told which versions are served.

    Attributes:
        serving: where requests go.
        changed: set whenever a lane takes over; whoever waits for it clears it.
    """

    def __init__(self, lanes: Sequence[Lane], metrics: Metrics) -> None:
        self.serving = list(lanes)
        self._beside: set[Lane] = set()
        self._finishing: set[asyncio.Task[None]] = set()
        self._metrics = metrics
        self._past_runs = 0
        self._past: set[str] = set()
        self._closed = False
        self.changed = asyncio.Event()

    @property
    def runs(self) -> int:
        """How often the device has run, for lanes that are gone as well."""
        return self._past_runs + sum(lane.runs for lane in self._all())

    async def start(self, lane: Lane) -> None:
        """Open one of the lanes. Raises ModelError."""
        await lane.start()
        self._show()

    async def take_over(self, index: int, lane: Lane) -> None:
        """Open ``lane`` and have it take the requests at ``index``; the one there finishes on its own time.

        Raises:
            ModelError: it cannot be opened; everything is as it was.
            EngineError: the engine was closed meanwhile.
        """
        self._beside.add(lane)
        try:
            self._check()
            await lane.start()
            self._check()
        except BaseException:
            self._past.add(lane.name)
            self._retire(lane)
            raise
        self._beside.discard(lane)
        old, self.serving[index] = self.serving[index], lane
        self._beside.add(old)
        self._retire(old)
        self._forget_the_past(old)
        self.changed.set()

    def close(self) -> None:
        """Let every lane end after the run it is in."""
        self._closed = True
        for finishing in self._finishing:
            finishing.cancel()
        for lane in self._all():
            lane.runner.close()

    def join(self) -> None:
        """Wait for the ends of all; blocks."""
        for lane in self._all():
            lane.runner.join()

    def _all(self) -> tuple[Lane, ...]:
        return (*self.serving, *self._beside)

    def _check(self) -> None:
        if self._closed:
            raise EngineError("the engine is closed.")

    def _retire(self, lane: Lane) -> None:
        if self._closed:
            lane.runner.close()  # and its end is waited for with the others'
            return
        finishing = asyncio.create_task(self._finish(lane))
        self._finishing.add(finishing)
        finishing.add_done_callback(self._finishing.discard)

    async def _finish(self, lane: Lane) -> None:
        while lane.held:  # noqa: ASYNC110 - a swap is rare, and an event would be looked after for every record
            await asyncio.sleep(POLL_S)
        lane.runner.close()
        while not lane.runner.ended():  # noqa: ASYNC110 - a thread that hangs must not be waited for by another
            await asyncio.sleep(POLL_S)
        self._beside.discard(lane)
        self._past_runs += lane.runs
        lane.let_go()

    def _forget_the_past(self, old: Lane) -> None:
        """``old`` is no longer served. Its series stay until the next swap, so that their last values are read."""
        here = {lane.name for lane in self._all()}
        for name in self._past - here:
            self._metrics.forget(name)
        self._past = (self._past & here) | {old.name}
        self._show()

    def _show(self) -> None:
        self._metrics.model_info.clear()
        for lane in self.serving:
            if lane.started:
                self._metrics.model_info.labels(lane.name, lane.variant, lane.info.provider).set(1)
