"""A log in memory behind the protocols of :mod:`agents.clients`: for tests and for trying things without Kafka."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from agents.clients import NewRecord, Report
from agents.ledger import Partition
from pipeline.errors import TransportError
from schemas.messages import Source
from schemas.records import RawRecord

__all__ = ["MemoryLog", "MemoryReader", "MemoryWriter"]


class MemoryLog:
    """Topics of partitions of records, kept for as long as the object lives.

    Args:
        topics: the topics and how many partitions each has.
        clock_ms: the time of the records.
    """

    def __init__(self, topics: Mapping[str, int], clock_ms: Callable[[], int] | None = None) -> None:
        self.partitions: dict[Partition, list[RawRecord]] = {
            Partition(topic, partition): [] for topic, count in topics.items() for partition in range(count)
        }
        self._clock_ms = clock_ms or (lambda: time.time_ns() // 1_000_000)

    def append(self, record: NewRecord) -> RawRecord:
        """Put ``record`` on a partition by its key, or on the shortest one. Raises TransportError for no such topic."""
        partition = self._choose(record)
        rows = self.partitions[Partition(record.topic, partition)]
        raw = RawRecord(
            topic=record.topic,
            partition=partition,
            offset=len(rows),
            timestamp_ms=self._clock_ms(),
            key=record.key,
            value=record.value,
            headers=record.headers,
        )
        rows.append(raw)
        return raw

    def partitions_of(self, topic: str) -> list[int]:
        """The partitions of ``topic``. Raises TransportError when there is none such."""
        found = sorted(p for t, p in self.partitions if t == topic)
        if not found:
            raise TransportError(f"topic {topic}: there is none such in this log.")
        return found

    def _choose(self, record: NewRecord) -> int:
        partitions = self.partitions_of(record.topic)
        if record.key is not None:
            return partitions[sum(record.key) % len(partitions)]
        return min(partitions, key=lambda p: len(self.partitions[Partition(record.topic, p)]))


class MemoryWriter:
    """Sends to a :class:`MemoryLog`; topics in ``failing`` take nothing and the report says why."""

    def __init__(self, log: MemoryLog, failing: Mapping[str, str] | None = None) -> None:
        self._log = log
        self._failing = failing or {}
        self._due: list[Callable[[], None]] = []

    def produce(self, record: NewRecord, report: Callable[[Report], None]) -> None:
        """Append at once; the report waits for :meth:`poll` or :meth:`flush`, as Kafka's does."""
        if reason := self._failing.get(record.topic):
            self._due.append(lambda: report(Report(record=record, error=reason)))
            return
        raw = self._log.append(record)
        source = Source(topic=raw.topic, partition=raw.partition, offset=raw.offset)
        self._due.append(lambda: report(Report(record=record, source=source, timestamp_ms=raw.timestamp_ms)))

    def poll(self) -> None:
        """Deliver the reports that are due."""
        due, self._due = self._due, []
        for deliver in due:
            deliver()

    def flush(self, timeout_s: float) -> int:  # noqa: ARG002 (nothing here takes time)
        """Deliver every report; none is ever left."""
        self.poll()
        return 0


class MemoryReader:
    """Reads a :class:`MemoryLog`."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._positions: dict[Partition, int] = {}
        self._waiting_for: set[Partition] = set()

    def partitions(self, topic: str) -> list[int]:
        """The partitions of ``topic``. Raises TransportError when there is none such."""
        return self._log.partitions_of(topic)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The first offset there is, and the one the next record will get."""
        return 0, len(self._log.partitions[Partition(topic, partition)])

    def assign(self, offsets: Mapping[Partition, int]) -> None:
        """Read these partitions from these offsets."""
        self._positions = dict(offsets)
        self._waiting_for = set(offsets)

    def read(self, timeout_s: float, max_records: int) -> list[RawRecord]:  # noqa: ARG002 (nobody writes meanwhile)
        """Up to ``max_records`` of what is there now."""
        found: list[RawRecord] = []
        for place, position in self._positions.items():
            rows = self._log.partitions[place][position : position + max_records - len(found)]
            self._positions[place] += len(rows)
            found += rows
            if self._positions[place] >= len(self._log.partitions[place]):
                self._waiting_for.discard(place)
        return found

    def caught_up(self) -> bool:
        """Whether every assigned partition was read to its end at least once."""
        return not self._waiting_for

    def close(self) -> None:
        """Nothing is held."""
