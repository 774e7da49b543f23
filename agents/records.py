"""confluent-kafka's messages as our records.

Its types allow ``None`` nearly everywhere because an error travels as a message too; a message without an error has a
topic, a partition and an offset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from schemas.records import Header, RawRecord

if TYPE_CHECKING:
    from confluent_kafka import Message

__all__ = ["UNREADABLE_HEADERS", "offset_of", "place", "raw_record", "record_size"]

ENVELOPE_BYTES = 256
"""What a record costs in memory beside its key and value, roughly."""
UNREADABLE_HEADERS: tuple[Header, ...] = (("millrace.unreadable-headers", None),)
"""Stands for headers whose names are not UTF-8: confluent-kafka cannot hand them over."""


def raw_record(message: Message) -> RawRecord:
    """The record that ``message``, which is no error, carries."""
    topic, partition = place(message)
    return RawRecord(
        topic=topic,
        partition=partition,
        offset=offset_of(message),
        timestamp_ms=message.timestamp()[1],
        key=message.key(),
        value=message.value(),
        headers=_headers(message),
    )


def _headers(message: Message) -> tuple[Header, ...]:
    """The headers; call it once for a message, for after a failure confluent-kafka 2.16 crashes on the second call."""
    try:
        return tuple(cast("list[Header]", message.headers() or ()))
    except (SystemError, UnicodeDecodeError):
        return UNREADABLE_HEADERS


def place(message: Message) -> tuple[str, int]:
    """Topic and partition of ``message``, which is no error."""
    return message.topic(), message.partition()  # type: ignore[return-value]


def offset_of(message: Message) -> int:
    """Offset of ``message``, which is no error."""
    return message.offset()  # type: ignore[return-value]


def record_size(message: Message) -> int:
    """Bytes that ``message`` holds in memory, headers left out: they can be asked for only once (``_headers``)."""
    return ENVELOPE_BYTES + len(message.value() or b"") + len(message.key() or b"")
