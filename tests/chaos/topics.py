"""Reads topics from end to end with bare consumers: what a reader of Kafka sees, by nobody's account."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

__all__ = ["Seen", "committed_offsets", "end_offsets", "read_topic"]

READ_TIMEOUT_S = 120.0
REQUEST_TIMEOUT_S = 30.0
RETRY_S = 0.5


class Seen(NamedTuple):
    """A message as it stands in a topic."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes | None]

    @property
    def place(self) -> tuple[str, int, int]:
        """Its name."""
        return self.topic, self.partition, self.offset


def read_topic(servers: str, topic: str, partitions: int) -> Iterator[Seen]:
    """Every committed message of ``topic``, from its beginning to its end at this moment, in order by partition.

    Raises:
        TimeoutError: the end is not reached: a transaction is open, or Kafka is away.
    """
    consumer = _consumer(servers, {"enable.partition.eof": True, "isolation.level": "read_committed"})
    try:
        consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        at_end: set[int] = set()
        deadline = time.monotonic() + READ_TIMEOUT_S
        while len(at_end) < partitions:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{topic}: partitions {sorted(set(range(partitions)) - at_end)} have no end")
            for message in consumer.consume(1_000, 0.2):
                if (error := message.error()) is None:
                    yield _seen(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    at_end.add(int(message.partition() or 0))
                elif error.fatal() or not error.retriable():
                    raise KafkaException(error)
    finally:
        consumer.close()


def end_offsets(servers: str, topic: str, partitions: int) -> dict[tuple[str, int], int]:
    """The offset that the next record of each partition gets. Raises KafkaException when nobody knows it for long."""
    consumer = _consumer(servers, {})
    try:
        return {(topic, number): _end_offset(consumer, TopicPartition(topic, number)) for number in range(partitions)}
    finally:
        consumer.close()


def _end_offset(consumer: Consumer, partition: TopicPartition) -> int:
    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    while True:
        try:
            return int(consumer.get_watermark_offsets(partition, REQUEST_TIMEOUT_S)[1])
        except KafkaException:  # its leader is moving
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_S)


def committed_offsets(servers: str, group: str, names: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """What the group has committed, 0 where it has nothing; empty while nobody can tell."""
    consumer = _consumer(servers, {"group.id": group})
    try:
        found = consumer.committed([TopicPartition(*name) for name in names], timeout=REQUEST_TIMEOUT_S)
    except KafkaException:
        return {}
    finally:
        consumer.close()
    return {(tp.topic, tp.partition): max(0, tp.offset) for tp in found}


def _consumer(servers: str, config: dict[str, str | bool]) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"chaos-checker-{uuid.uuid4().hex}",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "fetch.queue.backoff.ms": 10,
            "log_level": 0,
            **config,
        }
    )


def _seen(message: Message) -> Seen:
    pairs: Any = message.headers() or []
    headers = {name: value.encode() if isinstance(value, str) else value for name, value in pairs}
    return Seen(
        str(message.topic()),
        int(message.partition() or 0),
        int(message.offset() or 0),
        int(message.timestamp()[1]),
        message.key(),
        message.value(),
        headers,
    )
