"""How much of each topic a worker holds at once.

Every topic has its own bounds, so a slow prompt never holds up an image. A topic at a bound is full, and fetching from
it pauses; it resumes at half, because each pause throws away what librdkafka had fetched ahead.

Pure and used from two threads: the poll thread takes, the event loop gives back, each under the lock.
"""

from __future__ import annotations

import threading

__all__ = ["Flow"]

LARGEST_FETCH = 1_000


class Flow:
    """Records and bytes in flight of one topic."""

    def __init__(self, *, max_records: int, max_bytes: int) -> None:
        self.records = 0
        self.bytes = 0
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._largest = 1
        self._full = False
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
    def full(self) -> bool:
        """Whether fetching should pause: True from a bound on, until half of both is free."""
        with self._lock:
            share = max(self.records / self._max_records, self.bytes / self._max_bytes)
            self._full = share >= (0.5 if self._full else 1.0)
            return self._full

    @property
    def room(self) -> int:
        """Records that fit, each assumed as large as the largest seen; at least 1."""
        with self._lock:
            by_bytes = (self._max_bytes - self.bytes) // self._largest
            return max(1, min(LARGEST_FETCH, self._max_records - self.records, by_bytes))
