"""Ready means that a client has written a record, read it back, and committed its offset."""

from __future__ import annotations

import logging
import socket
import time
import uuid
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

__all__ = ["answers", "wait_until_ready"]

ClientConfig = dict[str, Any]  # librdkafka's names; "logger" is a logging.Logger
PROBE = "__millrace_ready"
POLL_S = 0.05
ROUND_TRIP_S = 10.0
QUIET = logging.getLogger("millrace.broker.clients")
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False  # a client that knocks before the broker is up would log each refusal


def answers(bootstrap_servers: str) -> bool:
    """Whether every node accepts connections."""
    for server in bootstrap_servers.split(","):
        host, _, port = server.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            return False
    return True


def wait_until_ready(bootstrap_servers: str, timeout_s: float, still_alive: Callable[[], bool]) -> str | None:
    """Wait until clients are served, or until that cannot happen any more.

    Returns:
        ``None`` when ready, else what the last try met.
    """
    deadline = time.monotonic() + timeout_s
    reason: str | None = "it accepts no connections"
    while time.monotonic() < deadline:
        if not still_alive():
            return "its process ended"
        if answers(bootstrap_servers):
            reason = _round_trip(bootstrap_servers, deadline)
            if reason is None:
                return None
        time.sleep(POLL_S)
    return reason


def _round_trip(bootstrap_servers: str, deadline: float) -> str | None:
    """One record through the cluster and its offset into a group: ``None``, or what went wrong."""
    timeout_s = max(1.0, min(ROUND_TRIP_S, deadline - time.monotonic()))
    config: ClientConfig = {
        "bootstrap.servers": bootstrap_servers,
        "logger": QUIET,
        "reconnect.backoff.ms": 20,
        "reconnect.backoff.max.ms": 200,
        "retry.backoff.ms": 20,
    }
    try:
        # One client held to the end: the answers of one that is let go never come.
        admin = AdminClient(config)
        _make_topic(admin, len(bootstrap_servers.split(",")), timeout_s)
        group = f"{PROBE}-{uuid.uuid4().hex[:8]}"
        _read(config, group, _write(config, timeout_s), timeout_s)
        _tidy(admin, group, timeout_s)
    except KafkaException as error:
        return str(error)
    except TimeoutError as error:
        return str(error) or f"it gave no answer within {timeout_s:.0f} s"
    return None


def _make_topic(admin: AdminClient, nodes: int, timeout_s: float) -> None:
    known = admin.list_topics(timeout=timeout_s)
    if len(known.brokers) < nodes:
        raise TimeoutError(f"{len(known.brokers)} of {nodes} nodes have joined")
    if PROBE not in known.topics:
        topic = NewTopic(PROBE, num_partitions=1, replication_factor=nodes)
        admin.create_topics([topic], request_timeout=timeout_s)[PROBE].result(timeout_s)


def _write(config: ClientConfig, timeout_s: float) -> int:
    """Write one record and give its offset."""
    reports: list[tuple[object, int]] = []
    producer = Producer({**config, "message.timeout.ms": int(timeout_s * 1000), "linger.ms": 0})
    producer.produce(
        PROBE, b"ready?", partition=0, on_delivery=lambda error, record: reports.append((error, record.offset() or 0))
    )
    producer.flush(timeout_s + 1)
    if not reports or reports[0][0] is not None:
        raise TimeoutError(f"a record cannot be written: {reports[0][0] if reports else 'no answer'}")
    return reports[0][1]


def _read(config: ClientConfig, group: str, offset: int, timeout_s: float) -> None:
    """Read that record and commit its offset, which also makes Kafka's own topic of offsets."""
    consumer = Consumer({**config, "group.id": group, "enable.auto.commit": False, "fetch.wait.max.ms": 10})
    try:
        consumer.assign([TopicPartition(PROBE, 0, offset)])
        record = consumer.poll(timeout_s)
        if record is None or record.error():
            raise TimeoutError(f"a record cannot be read: {record.error() if record else 'no answer'}")
        consumer.commit(message=record, asynchronous=False)
    finally:
        consumer.close()


def _tidy(admin: AdminClient, group: str, timeout_s: float) -> None:
    admin.delete_consumer_groups([group], request_timeout=timeout_s)[group].result(timeout_s)
    admin.delete_topics([PROBE], request_timeout=timeout_s)[PROBE].result(timeout_s)
