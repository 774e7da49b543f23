"""How much of each topic a worker holds at once.

Every topic has its own bounds, so a slow prompt holds up an image for no longer than 0.2 s. Pausing a topic throws away
what librdkafka had fetched ahead of it, so a topic that reaches a bound first only keeps the poll thread from fetching,
any topic: a busy device makes room again within milliseconds. What stays full for 0.2 s is paused alone, and resumes at
half.
"""

from __future__ import annotations

import threading
from enum import Enum, auto

__all__ = ["Flow", "State", "Valve"]

LARGEST_FETCH = 1_000
PATIENCE_S = 0.2
REOPEN_AT = 0.9
RESUME_AT = 0.5


class Flow:
    """Records and bytes in flight of one topic. The poll thread takes, the event loop gives back."""

    def __init__(self, *, max_records: int, max_bytes: int) -> None:
        self.records = 0
        self.bytes = 0
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._largest = 1
        self._lock = threading.Lock()

    def take(self, sizes: list[int]) -> None:
        """Count records of ``sizes`` bytes as held."""
        with self._lock:
            self.records += len(sizes)
            self.bytes += sum(sizes)
            self._largest = max(self._largest, *sizes)

    def give_back(self, size: int) -> None:
        """Count one record of ``size`` bytes as done."""
        with self._lock:
            self.records -= 1
            self.bytes -= size

    @property
    def share(self) -> float:
        """How much of the tighter bound is used; full from 1.0 on."""
        with self._lock:
            return max(self.records / self._max_records, self.bytes / self._max_bytes)

    @property
    def room(self) -> int:
        """Records that fit, each assumed as large as the largest seen; at least 1."""
        with self._lock:
            by_bytes = (self._max_bytes - self.bytes) // self._largest
            return max(1, min(LARGEST_FETCH, self._max_records - self.records, by_bytes))


class State(Enum):
    """Whether a topic is fetched, may be again in a moment, or is paused."""

    OPEN = auto()
    WAITING = auto()
    PAUSED = auto()


class Valve:
    """Decides the state of one topic. Pure: the clock is an argument."""

    def __init__(self) -> None:
        self._paused = False
        self._full_since: float | None = None

    def turn(self, share: float, now_s: float) -> State:
        """The state at ``now_s``, of a monotonic clock, with ``share`` of the bound used."""
        if self._paused:
            self._paused = share >= RESUME_AT
        elif share >= (REOPEN_AT if self._full_since is not None else 1.0):
            self._full_since = now_s if self._full_since is None else self._full_since
            self._paused = now_s - self._full_since >= PATIENCE_S
        else:
            self._full_since = None
        if self._paused:
            self._full_since = None
            return State.PAUSED
        return State.OPEN if self._full_since is None else State.WAITING
