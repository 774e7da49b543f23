"""One run at a time on a device that several models share, in equal shares of its time.

Each session's thread pool is as wide as the machine, so two runs at once would fight for the same cores. Instead they
take turns: the waiting model that has used the least device time goes next (start-time fair queueing, Goyal, Vin and
Cheng 1996). A short decoding step is thus not made to wait for one large image batch after each token.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["DeviceGate"]


class DeviceGate:
    """Hands the device to one model at a time.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._busy = False
        self._used: dict[str, float] = {}
        self._waiting: set[str] = set()
        self._floor = 0.0

    @contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """Hold the device as ``name``; blocks until it is free and it is this model's turn."""
        self._enter(name)
        start = self._clock()
        try:
            yield
        finally:
            self._leave(name, self._clock() - start)

    def forget(self, name: str) -> None:
        """``name`` comes no more."""
        with self._changed:
            self._used.pop(name, None)

    def _enter(self, name: str) -> None:
        with self._changed:
            # A model that was idle earns no credit for it: it starts level with the others.
            self._used[name] = max(self._used.get(name, 0.0), self._floor)
            self._waiting.add(name)
            self._changed.wait_for(lambda: not self._busy and self._next() == name)
            self._waiting.remove(name)
            self._busy = True
            self._floor = self._used[name]

    def _next(self) -> str:
        return min(self._waiting, key=lambda name: (self._used[name], name))

    def _leave(self, name: str, seconds: float) -> None:
        with self._changed:
            self._used[name] += seconds
            self._busy = False
            self._changed.notify_all()
