"""A Kafka record as the transport hands it over, and a dead letter as the publisher takes it: bytes alone."""

from __future__ import annotations

from msgspec import Struct

from schemas.messages import Source

__all__ = ["Header", "RawLetter", "RawRecord"]

Header = tuple[str, bytes | None]


class RawRecord(Struct, frozen=True, kw_only=True):
    """One record of an input topic. ``value`` is ``None`` for a tombstone; ``timestamp_ms`` is the broker's."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int = 0
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[Header, ...] = ()

    @property
    def source(self) -> Source:
        """Where the record stands."""
        return Source(topic=self.topic, partition=self.partition, offset=self.offset)

    @property
    def name(self) -> str:
        """``topic/partition/offset``: the request's id when the caller gave none."""
        return f"{self.topic}/{self.partition}/{self.offset}"


class RawLetter(Struct, frozen=True, kw_only=True):
    """A dead letter, ready to be produced: the record's own key, value and headers, and the error's headers."""

    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
