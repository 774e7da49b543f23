"""Producing and reading in tests, with bare confluent-kafka clients: nothing here is the code under test."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from pipeline.settings import Settings
from tests.waiting import PATIENCE_S, wait_until

__all__ = ["committed", "grey_pixel_png", "produce", "read", "read_outcomes", "read_whole", "sources"]

Headers = Mapping[str, bytes]


def produce(
    settings: Settings, topic: str, records: Iterable[tuple[str | None, bytes | None]], headers: Headers | None = None
) -> int:
    """Produce (key, value) records, compressed so that large dull values pass the topic's bound; returns how many."""
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "compression.type": "gzip",
            "message.max.bytes": 100_000_000,
        }
    )
    failures: list[str] = []

    def on_delivery(error: KafkaError | None, _: Any) -> None:
        if error is not None:
            failures.append(str(error))

    count = 0
    for key, value in records:
        producer.produce(topic, value, key, headers=dict(headers or {}), on_delivery=on_delivery)
        producer.poll(0)
        count += 1
    assert producer.flush(60) == 0
    assert failures == []
    return count


def read(settings: Settings, topic: str, count: int, timeout_s: float = PATIENCE_S) -> list[Any]:
    """The first ``count`` messages of ``topic``, and whatever follows within half a second."""
    consumer = _reader(settings, topic)
    found: list[Any] = []
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and len(found) < count:
        found += [message for message in consumer.consume(500, 0.2) if message.error() is None]
    found += [message for message in consumer.consume(500, 0.5) if message.error() is None]
    consumer.close()
    return found


def read_whole(settings: Settings, topic: str) -> list[Any]:
    """Every message that ``topic`` holds now, however long it takes to read them."""
    consumer = _reader(settings, topic, {"enable.partition.eof": True})
    found: list[Any] = []
    ended: set[int | None] = set()

    def read_on() -> bool:
        for message in consumer.consume(500, 0.2):
            error = message.error()
            if error is None:
                found.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
        return len(ended) == settings.kafka.partitions

    wait_until(read_on, f"{topic} is read to its end", poll_s=0)
    consumer.close()
    return found


def _reader(settings: Settings, topic: str, config: Mapping[str, Any] | None = None) -> Consumer:
    """A consumer at the beginning of every partition of ``topic``."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "group.id": "reader",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.message.max.bytes": 100_000_000,
            "receive.message.max.bytes": 200_000_000,
            **(config or {}),
        }
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in range(settings.kafka.partitions)])
    return consumer


def read_outcomes(settings: Settings, topic: str, count: int, timeout_s: float = PATIENCE_S) -> list[dict[str, Any]]:
    """The outcomes among :func:`read`'s messages."""
    return [json.loads(message.value()) for message in read(settings, topic, count, timeout_s)]


def committed(settings: Settings, topic: str) -> int:
    """The committed offsets of the settings' group, summed over the partitions of ``topic``."""
    consumer = Consumer({"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": settings.kafka.group_id})
    partitions = [TopicPartition(topic, number) for number in range(settings.kafka.partitions)]
    offsets = consumer.committed(partitions, timeout=30)
    consumer.close()
    return sum(max(0, tp.offset) for tp in offsets)


def sources(found: Iterable[Mapping[str, Any]]) -> Counter[tuple[int, int]]:
    """How many outcomes each (partition, offset) has."""
    return Counter((outcome["source"]["partition"], outcome["source"]["offset"]) for outcome in found)


def grey_pixel_png() -> bytes:
    """A PNG of one grey pixel."""
    return bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
        "0000000a49444154789c636005000007000680cd628a0000000049454e44ae426082"
    )
