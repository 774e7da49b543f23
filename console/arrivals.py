"""Outcomes, paired with the records they answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from msgspec import Struct

from agents.clients import Tailer
from pipeline.errors import TransportError
from schemas.errors import DecodeError
from schemas.messages import Outcome, Source
from schemas.outcomes import decode_outcome
from schemas.records import RawRecord

__all__ = ["Arrival", "Arrivals", "read_outcome"]


class Arrival(Struct, frozen=True, kw_only=True):
    """An outcome and the Kafka timestamp of its record."""

    outcome: Outcome
    timestamp_ms: int


def read_outcome(record: RawRecord) -> Arrival:
    """The outcome in ``record``. Raises TransportError when the topic holds something else."""
    try:
        return Arrival(outcome=decode_outcome(record.value or b""), timestamp_ms=record.timestamp_ms)
    except DecodeError as error:
        place = f"{record.topic}/{record.partition}@{record.offset}"
        raise TransportError(f"{place}: {error}") from error


class Arrivals:
    """Waits for the outcomes of known records and keeps out all others and repeats.

    Args:
        tailer: reads the result topics from before the first record was sent.
        check: called between reads; it may raise to end the wait (a worker died).
    """

    def __init__(self, tailer: Tailer, check: Callable[[], None] = lambda: None) -> None:
        self._tailer = tailer
        self._check = check
        self.missing: set[Source] = set()

    def expect(self, source: Source) -> None:
        """The record at ``source`` was sent."""
        self.missing.add(source)

    def until_all(self, idle_timeout_s: float) -> Iterator[Arrival]:
        """Each awaited outcome once, until all are there or none came for ``idle_timeout_s`` seconds."""
        last = time.monotonic()
        while self.missing and time.monotonic() - last < idle_timeout_s:
            self._check()
            for record in self._tailer.read(0.1):
                arrival = read_outcome(record)
                if arrival.outcome.source in self.missing:
                    self.missing.discard(arrival.outcome.source)
                    last = time.monotonic()
                    yield arrival
