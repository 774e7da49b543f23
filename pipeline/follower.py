"""Follows the pointers of what is served by name alone, and has a promoted version take over while records flow.

Whatever is wrong with that version (it is not there, damaged, for another task, too large, fails its warm-up), the one
before goes on, and one line of the log says why. It is tried again when it is promoted again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from pipeline.errors import MillraceError, ModelError
from pipeline.lane import Lane
from pipeline.lanes import Lanes
from pipeline.metrics import Metrics
from pipeline.models.store import ServedModel
from pipeline.models.watch import Watch
from pipeline.settings import Settings

__all__ = ["Follower"]

LOG = logging.getLogger(__name__)
JOIN_S = 1.0
OPEN_TIMEOUT_S = 300.0
"""Longer than any model takes to open: one that hangs must not keep others from being promoted."""


class Follower:
    """Looks every ``models.watch_interval_s`` on a thread of its own: a digest of gigabytes takes seconds.

    Args:
        settings: of the store, and how often to look.
        specs: what each lane was asked for as; those with a version stay as they are.
        lanes: what is served.
        make_lane: makes the lane of a version that is to take over; raises ModelError.
        metrics: counts what came of it.
    """

    def __init__(
        self,
        settings: Settings,
        specs: Sequence[str],
        lanes: Lanes,
        make_lane: Callable[[ServedModel], Lane],
        metrics: Metrics,
    ) -> None:
        self._interval_s = settings.models.watch_interval_s
        self._watches = {index: Watch(spec, settings) for index, spec in enumerate(specs) if "@" not in spec}
        self._lanes, self._make_lane, self._swaps = lanes, make_lane, metrics.swaps
        self._stopped = threading.Event()
        self._opening: Future[None] | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look, from the event loop of the lanes; nothing happens where there is nothing to follow."""
        if self._interval_s and self._watches:
            loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._main, args=(loop,), name="millrace-follower", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Look no more, and leave a swap that is under way."""
        self._stopped.set()
        if self._opening is not None:
            self._opening.cancel()

    def join(self) -> None:
        """Wait a moment for the thread; it may be in the middle of a large file, which harms nobody."""
        if self._thread is not None:
            self._thread.join(JOIN_S)

    def _main(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stopped.wait(self._interval_s):
            for index, watch in self._watches.items():
                self._follow(index, watch, loop)

    def _follow(self, index: int, watch: Watch, loop: asyncio.AbstractEventLoop) -> None:
        before = self._lanes.serving[index].name
        try:
            after = self._look(index, watch, loop)
        except Exception as error:
            if not self._stopped.is_set():
                self._refused(watch.name, before, error)
            return
        if after is not None:
            LOG.warning("model %s: %s serves now; %s finishes what it has", watch.name, after, before)
            self._swaps.labels(watch.name, "ok").inc()

    def _look(self, index: int, watch: Watch, loop: asyncio.AbstractEventLoop) -> str | None:
        """Have the promoted version take over, if that is another one; its name. Raises MillraceError."""
        serving = self._lanes.serving[index]
        model = watch.look(serving.model, serving.variant)
        if model is None:
            return None
        model.check_replaces(serving.model)
        self._opening = asyncio.run_coroutine_threadsafe(self._lanes.take_over(index, self._make_lane(model)), loop)
        try:
            self._opening.result(OPEN_TIMEOUT_S)
        except TimeoutError:
            self._opening.cancel()
            raise ModelError(f"{model.spec} was not open after {OPEN_TIMEOUT_S:g} s: its warm-up hangs.") from None
        return model.spec

    def _refused(self, name: str, serving: str, error: Exception) -> None:
        message = "model %s: the promoted version is not taken, %s goes on: %s"
        if isinstance(error, MillraceError):
            LOG.warning(message, name, serving, error)
        else:
            LOG.error(message, name, serving, repr(error), exc_info=error)
        self._swaps.labels(name, "refused").inc()
