"""How programs of ours put records on topics and read them back, without a consumer group.

:class:`Sender` counts delivery reports and refuses a record that is too large before it is sent. :class:`Tailer` reads
all partitions of some topics from offsets given at the start; it joins no group, commits nothing and disturbs nobody.
Both stand on narrow protocols: :mod:`agents.kafka_clients` is Kafka, :mod:`agents.memory_log` the fake.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, Self

from msgspec import Struct

from agents.ledger import Partition
from pipeline.errors import TransportError
from pipeline.settings import Settings
from schemas.messages import Source
from schemas.records import RawRecord

__all__ = ["NewRecord", "Reader", "RecordTooLargeError", "Report", "Sender", "Start", "Tailer", "Writer"]

RECORD_OVERHEAD_BYTES = 128
"""Kafka's framing of one record in a batch of its own (KIP-98, message format 2), generously."""

Start = Literal["beginning", "end"] | Mapping[Partition, int]


class RecordTooLargeError(TransportError):
    """The record is larger than the topics take; it was not sent, others may be."""


class NewRecord(Struct, frozen=True, kw_only=True):
    """A record to be sent. ``name`` is what to call it in messages, such as its file."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    name: str = ""

    @property
    def size(self) -> int:
        """Bytes of value, key and headers together."""
        headers = sum(len(name.encode()) + len(value) for name, value in self.headers)
        return len(self.value or b"") + len(self.key or b"") + headers


class Report(Struct, frozen=True, kw_only=True):
    """What became of a sent record: its ``source`` and Kafka timestamp, or an ``error``."""

    record: NewRecord
    source: Source | None = None
    timestamp_ms: int = 0
    error: str = ""


class Writer(Protocol):
    """What a sender needs of a producer."""

    def produce(self, record: NewRecord, report: Callable[[Report], None]) -> None:
        """Queue ``record``; ``report`` is called from :meth:`poll` or :meth:`flush`, once."""

    def poll(self) -> None:
        """Deliver the reports that are due."""

    def flush(self, timeout_s: float) -> int:
        """Wait until all is delivered or failed; how many records are still queued after ``timeout_s``."""


class Reader(Protocol):
    """What a tailer needs of a consumer."""

    def partitions(self, topic: str) -> list[int]:
        """The partitions of ``topic``. Raises TransportError when there is none such."""

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The first offset there is, and the one the next record will get."""

    def assign(self, offsets: Mapping[Partition, int]) -> None:
        """Read these partitions from these offsets."""

    def read(self, timeout_s: float, max_records: int) -> list[RawRecord]:
        """Up to ``max_records``; returns as soon as there is one, or empty after ``timeout_s``."""

    def caught_up(self) -> bool:
        """Whether every assigned partition was read to its end at least once."""

    def close(self) -> None:
        """Let go of the connection."""


class Sender:
    """Sends records and counts what became of them.

    Args:
        writer: the producer.
        max_message_bytes: the largest record the topics take.
    """

    def __init__(self, writer: Writer, *, max_message_bytes: int) -> None:
        self._writer = writer
        self._max_bytes = max_message_bytes
        self.delivered = 0
        self.failures: list[Report] = []

    @classmethod
    def connect(cls, settings: Settings, topics: Sequence[str]) -> Self:
        """A sender to the Kafka of ``settings``. Raises TransportError when it is away or lacks one of ``topics``."""
        from agents.kafka_clients import KafkaWriter

        return cls(KafkaWriter(settings, topics), max_message_bytes=settings.kafka.max_message_bytes)

    def send(self, record: NewRecord, on_report: Callable[[Report], None] | None = None) -> None:
        """Queue ``record``. Raises RecordTooLargeError for a record that no topic would take."""
        if record.size + RECORD_OVERHEAD_BYTES > self._max_bytes:
            raise RecordTooLargeError(
                f"{record.name or 'a record'}: {record.size:,} bytes is more than {record.topic} takes "
                f"({self._max_bytes - RECORD_OVERHEAD_BYTES:,}). Make it smaller, or raise kafka.max_message_bytes "
                "and the topic's max.message.bytes."
            )
        self._writer.produce(record, lambda report: self._count(report, on_report))
        self._writer.poll()

    def flush(self, timeout_s: float) -> int:
        """Wait for the delivery reports; how many are still missing after ``timeout_s`` seconds."""
        return self._writer.flush(timeout_s)

    def _count(self, report: Report, on_report: Callable[[Report], None] | None) -> None:
        if report.source is None:
            self.failures.append(report)
        else:
            self.delivered += 1
        if on_report is not None:
            on_report(report)


class Tailer:
    """Reads every partition of ``topics`` from ``start`` on; later records follow as they come.

    Args:
        reader: the consumer.
        topics: must exist.
        start: ``beginning``, ``end`` (of the moment of the call), or offsets; partitions without one start at the end.
    """

    def __init__(self, reader: Reader, topics: Sequence[str], *, start: Start = "end") -> None:
        self._reader = reader
        self.bounds = {Partition(t, p): reader.bounds(t, p) for t in topics for p in reader.partitions(t)}
        self.offsets = {place: _first_offset(place, bounds, start) for place, bounds in self.bounds.items()}
        reader.assign(self.offsets)

    @classmethod
    def connect(cls, settings: Settings, topics: Sequence[str], *, start: Start = "end") -> Self:
        """A tailer of the Kafka of ``settings``. Raises TransportError when it is away or lacks one of ``topics``."""
        from agents.kafka_clients import KafkaReader

        reader = KafkaReader(settings)
        try:
            return cls(reader, topics, start=start)
        except BaseException:
            reader.close()
            raise

    def rewind(self, records: int) -> None:
        """Start again ``records`` before the end of each partition (or at its beginning)."""
        self.seek({place: max(low, high - records) for place, (low, high) in self.bounds.items()})

    def seek(self, offsets: Mapping[Partition, int]) -> None:
        """Read these partitions alone, from these offsets."""
        self.offsets = dict(offsets)
        self._reader.assign(self.offsets)

    def read(self, timeout_s: float, max_records: int = 500) -> list[RawRecord]:
        """Up to ``max_records``, in order within a partition; empty after ``timeout_s`` seconds without any."""
        return self._reader.read(timeout_s, max_records)

    def caught_up(self) -> bool:
        """Whether every partition was read to its end at least once."""
        return self._reader.caught_up()

    def close(self) -> None:
        """Let go of the connection."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _first_offset(place: Partition, bounds: tuple[int, int], start: Start) -> int:
    if start == "beginning":
        return bounds[0]
    return bounds[1] if isinstance(start, str) else start.get(place, bounds[1])
