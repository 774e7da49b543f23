"""Kafka behind the protocols of :mod:`agents.clients`, on confluent-kafka."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from agents.clients import NewRecord, RecordTooLargeError, Report
from agents.ledger import Partition
from agents.records import offset_of, place, raw_record
from agents.topics import DEAD_LETTER_FACTOR, client_config
from pipeline.errors import TransportError
from pipeline.settings import Settings
from schemas.messages import Source
from schemas.records import RawRecord

__all__ = ["KafkaReader", "KafkaWriter"]

METADATA_TIMEOUT_S = 10.0
QUEUE_FULL_WAIT_S = 0.1


class KafkaWriter:
    """An idempotent, compressing producer."""

    def __init__(self, settings: Settings, topics: Sequence[str]) -> None:
        self._servers = settings.kafka.bootstrap_servers
        self._producer = Producer(sender_config(settings))
        for topic in topics:
            _partitions(self._producer, topic, self._servers)

    def produce(self, record: NewRecord, report: Callable[[Report], None]) -> None:
        """Queue ``record``, waiting while librdkafka's queue is full."""
        while True:
            try:
                self._producer.produce(
                    record.topic,
                    value=record.value,
                    key=record.key,
                    headers=list(record.headers),
                    on_delivery=partial(_report, record, report),
                )
            except BufferError:
                self._producer.poll(QUEUE_FULL_WAIT_S)
            except KafkaException as error:
                raise _produce_error(record, error) from error
            else:
                return

    def poll(self) -> None:
        """Deliver the reports that are due."""
        self._producer.poll(0)

    def flush(self, timeout_s: float) -> int:
        """Wait in short steps, so that Ctrl-C is heard."""
        deadline = time.monotonic() + timeout_s
        while (left := self._producer.flush(0.2)) and time.monotonic() < deadline:
            pass
        return int(left)


class KafkaReader:
    """A consumer that is told its partitions and offsets: no group, no commits."""

    def __init__(self, settings: Settings) -> None:
        self._servers = settings.kafka.bootstrap_servers
        self._consumer = Consumer(tailer_config(settings))
        self._waiting_for: set[Partition] = set()

    def partitions(self, topic: str) -> list[int]:
        """The partitions of ``topic``. Raises TransportError when Kafka is away or there is no such topic."""
        return _partitions(self._consumer, topic, self._servers)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The first offset there is, and the one the next record will get."""
        try:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), METADATA_TIMEOUT_S)
        except KafkaException as error:
            raise TransportError(f"{topic}/{partition}: no offsets from {self._servers}: {_text(error)}") from error
        return int(low), int(high)

    def assign(self, offsets: Mapping[Partition, int]) -> None:
        """Read these partitions from these offsets."""
        self._waiting_for = set(offsets)
        self._consumer.assign([TopicPartition(t, p, offset) for (t, p), offset in offsets.items()])

    def read(self, timeout_s: float, max_records: int) -> list[RawRecord]:
        """Up to ``max_records``; a fatal or authorization error raises TransportError, a passing one is waited out."""
        # consume(n, t) waits for n or t, so one is waited for and the rest taken as it lies there.
        messages = self._consumer.consume(1, timeout_s)
        if messages and max_records > 1:
            messages += self._consumer.consume(max_records - 1, 0)
        return [raw_record(message) for message in messages if self._is_record(message)]

    def caught_up(self) -> bool:
        """Whether every assigned partition was read to its end at least once."""
        return not self._waiting_for

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()

    def _is_record(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.code() == KafkaError._PARTITION_EOF:
            self._waiting_for.discard(Partition(*place(message)))
        elif error.fatal() or not error.retriable():
            raise TransportError(f"reading from {self._servers}: {error.str()}")
        return False


# A worker's are in agents/worker_config.py: what its delivery depends on cannot be changed by ``kafka.client``.
def sender_config(settings: Settings) -> dict[str, Any]:
    """Librdkafka's configuration of a sender; ``kafka.client`` of the settings has the last word."""
    return {
        "enable.idempotence": True,
        "compression.type": "zstd",
        "linger.ms": 5,
        "sticky.partitioning.linger.ms": 0,  # a handful of records without keys should reach every worker
        "message.max.bytes": settings.kafka.max_message_bytes,
        "delivery.timeout.ms": int(settings.kafka.delivery_timeout_s * 1000),
        "log_level": 0,
        **client_config(settings),
    }


def tailer_config(settings: Settings) -> dict[str, Any]:
    """Librdkafka's configuration of a tailer, which also reads dead letters."""
    largest = DEAD_LETTER_FACTOR * settings.kafka.max_message_bytes
    return {
        "group.id": f"{settings.kafka.group_id}-tail",  # asked for by librdkafka, never joined
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "fetch.queue.backoff.ms": 10,
        "fetch.wait.max.ms": 100,
        "max.partition.fetch.bytes": largest,
        "fetch.max.bytes": max(largest, 50 * 1024 * 1024),
        "receive.message.max.bytes": max(2 * largest, 100 * 1024 * 1024),
        "log_level": 0,
        **client_config(settings),
    }


def _partitions(client: Producer | Consumer, topic: str, servers: str) -> list[int]:
    try:
        found = client.list_topics(topic, METADATA_TIMEOUT_S).topics[topic]
    except KafkaException as error:
        raise TransportError(
            f"no Kafka answers at {servers}: {_text(error)}. Start one with `millrace up`, "
            "or set KAFKA_BOOTSTRAP_SERVERS to another."
        ) from error
    if found.error is not None:
        raise TransportError(f"topic {topic} at {servers}: {found.error.str()}. `millrace up` creates the topics.")
    return sorted(found.partitions)


def _report(record: NewRecord, report: Callable[[Report], None], error: KafkaError | None, message: Message) -> None:
    if error is not None:
        report(Report(record=record, error=error.str()))
        return
    topic, partition = place(message)
    source = Source(topic=topic, partition=partition, offset=offset_of(message))
    report(Report(record=record, source=source, timestamp_ms=message.timestamp()[1]))


def _produce_error(record: NewRecord, error: KafkaException) -> TransportError:
    reason = error.args[0]
    if reason.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return RecordTooLargeError(f"{record.name or 'a record'}: {record.size:,} bytes: {reason.str()}")
    return TransportError(f"{record.name or 'a record'}: cannot be sent to {record.topic}: {reason.str()}")


def _text(error: KafkaException) -> str:
    return str(error.args[0].str())
