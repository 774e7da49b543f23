"""Keeps worker processes running: starts them, knows when they serve, restarts those that die, stops them all."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from console.processes import KILL_TIMEOUT_S
from pipeline.errors import EngineError

__all__ = ["Ready", "Supervisor", "WorkerHandle", "backoff_s"]

FIRST_BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 30.0
STEADY_S = 60.0
"""A worker that lived this long starts again at once when it dies."""
POLL_S = 0.05


class Ready(Struct, frozen=True):
    """What a worker prints when it serves: ``{"event": "ready", "models": [...], "metrics_port": N}``."""

    models: tuple[str, ...] = ()
    metrics_port: int | None = None


class WorkerHandle(Protocol):
    """One started worker."""

    pid: int

    def ready(self) -> Ready | None:
        """What it said it serves, the last time, or ``None`` so far."""

    def exit_code(self) -> int | None:
        """Its exit status, or ``None`` while it runs."""

    def stop(self) -> None:
        """Ask it to finish what it has and end."""

    def kill(self) -> None:
        """End it now."""

    def last_words(self) -> str:
        """The end of what it wrote about itself, for the message about its death."""


def backoff_s(deaths: int) -> float:
    """Seconds before a worker is started again after it died ``deaths`` times in a row: 1, 2, 4 ... 30."""
    return float(min(FIRST_BACKOFF_S * 2 ** max(0, deaths - 1), LONGEST_BACKOFF_S))


class Place(Struct, kw_only=True):
    """One of the workers that there should be."""

    number: int
    handle: WorkerHandle | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    deaths_in_a_row: int = 0
    restarts: int = 0
    announced: Ready | None = None


class Supervisor:
    """Keeps ``count`` workers running.

    Args:
        count: how many.
        launch: starts a worker, given its number.
        say: told of every ready worker, death and restart.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        count: int,
        launch: Callable[[int], WorkerHandle],
        *,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.places = [Place(number=number) for number in range(1, count + 1)]
        self._launch = launch
        self._say = say
        self._clock = clock

    def start(self) -> None:
        """Start every worker."""
        for place in self.places:
            self._start(place)

    def all_ready(self) -> bool:
        """Whether every worker serves."""
        return all(place.handle is not None and place.handle.ready() is not None for place in self.places)

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until every worker serves. Raises EngineError when one dies first or it takes longer."""
        deadline = self._clock() + timeout_s
        while not self.all_ready():
            self.check_alive()
            if self._clock() >= deadline:
                raise EngineError(f"the workers are not ready after {timeout_s:g} s.{self._last_words()}")
            time.sleep(POLL_S)
        self.tick()

    def check_alive(self) -> None:
        """Raises EngineError when a worker has ended."""
        for place in self.places:
            if place.handle is not None and (code := place.handle.exit_code()) is not None:
                raise EngineError(f"worker {place.number} {_ending(code)}.{_quoted(place.handle.last_words())}")

    def tick(self) -> bool:
        """Announce, bury and restart; whether anything changed."""
        changes = [self._tick(place) for place in self.places]
        return any(changes)

    def stop(self, grace_s: float) -> bool:
        """Stop all: each may finish what it has, for ``grace_s`` seconds; whether none had to be killed."""
        handles = [place.handle for place in self.places if place.handle is not None]
        for handle in handles:
            handle.stop()
        if _wait(handles, grace_s):
            return True
        for handle in handles:
            handle.kill()
        _wait(handles, KILL_TIMEOUT_S)
        return False

    def _tick(self, place: Place) -> bool:
        if place.handle is None:
            if self._clock() < place.restart_at:
                return False
            place.restarts += 1
            self._start(place)
            return True
        if (code := place.handle.exit_code()) is not None:
            self._bury(place, place.handle, code)
            return True
        ready = place.handle.ready()
        if ready is not None and ready != place.announced:
            place.announced = ready
            self._say(f"worker {place.number} (pid {place.handle.pid}) serves {', '.join(ready.models)}")
            return True
        return False

    def _start(self, place: Place) -> None:
        place.handle = self._launch(place.number)
        place.started_at = self._clock()
        place.announced = None

    def _bury(self, place: Place, handle: WorkerHandle, code: int) -> None:
        steady = self._clock() - place.started_at >= STEADY_S
        place.deaths_in_a_row = 1 if steady else place.deaths_in_a_row + 1
        wait_s = 0.0 if steady else backoff_s(place.deaths_in_a_row)
        place.handle = None
        place.restart_at = self._clock() + wait_s
        self._say(f"worker {place.number} (pid {handle.pid}) {_ending(code)}; starting it again in {wait_s:g} s")

    def _last_words(self) -> str:
        words = (place.handle.last_words() for place in self.places if place.handle is not None)
        return _quoted("\n".join(filter(None, words)))


def _wait(handles: list[WorkerHandle], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while any(handle.exit_code() is None for handle in handles):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def _ending(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit status {code}"


def _quoted(words: str) -> str:
    return f" It said:\n{words}" if words else ""
