"""The topics: made when they are missing, grown when they are too small, never shrunk."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from agents.broker import EmbeddedBroker
from pipeline.errors import BrokerError, TransportError
from pipeline.settings import KafkaSettings, Settings

__all__ = ["DEAD_LETTER_FACTOR", "client_config", "create_topics", "delete_topics"]

TIMEOUT_S = 30.0
POLL_S = 0.02
DEAD_LETTER_FACTOR = 4
MAX_BYTES = "max.message.bytes"
MIN_IN_SYNC = "min.insync.replicas"
LOG = logging.getLogger(__name__)
QUIET = logging.getLogger("millrace.kafka.admin")  # librdkafka's own lines; what fails is raised here
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False


def client_config(settings: Settings) -> dict[str, str]:
    """What every librdkafka client of ours is given: where Kafka is, and ``kafka.client`` of the settings unchanged.

    Raises:
        BrokerError: no Kafka is named and the embedded one does not run.
    """
    return {"bootstrap.servers": _bootstrap_servers(settings), **settings.kafka.client}


def _bootstrap_servers(settings: Settings) -> str:
    if settings.kafka.bootstrap_servers:
        return settings.kafka.bootstrap_servers
    if running := EmbeddedBroker(settings.broker).status():
        return running.bootstrap_servers
    raise BrokerError(
        "No Kafka to talk to: no broker runs in "
        f"{settings.broker.data_path}. Start everything with `millrace up` (only Kafka with `millrace broker start`), "
        "or set KAFKA_BOOTSTRAP_SERVERS to a Kafka that is running."
    )


def create_topics(settings: Settings) -> list[str]:
    """Make the topics of the settings that do not exist yet; do it again and nothing happens.

    A topic with fewer partitions than ``kafka.partitions`` is grown to it (keys then go to other partitions than
    before, so the order of a key's records across that moment is not kept); one with more is left as it is, for Kafka
    cannot take partitions away. A lower ``max.message.bytes`` is raised. Both are logged. With three replicas or more
    a new topic takes a record only when two have it, so that the loss of any one broker loses none.

    Returns:
        The names of the topics that this call made.

    Raises:
        TransportError: Kafka cannot be reached, or refuses; the message names the topic.
        BrokerError: no Kafka is named and the embedded one does not run.
    """
    kafka = settings.kafka
    admin = _admin(settings)
    try:
        before = _partitions(admin)
        created = [name for name in kafka.topics if name not in before and _create(admin, name, kafka)]
        known = {name: before[name] for name in kafka.topics if name in before}
        _grow(admin, known, kafka.partitions)
        _raise_limits(admin, known, kafka)
        _wait_until_seen(admin, kafka)
    except (KafkaException, TimeoutError) as error:
        raise TransportError(
            f"The topics {kafka.topic_prefix}* cannot be made at {_bootstrap_servers(settings)}: {_text(error)}. See "
            "that Kafka runs there, and that kafka.client of the settings is what it wants (security, names)."
        ) from error
    return created


def delete_topics(settings: Settings) -> None:
    """Remove the topics of the settings with all their records; those that do not exist are passed over.

    Raises:
        TransportError: Kafka cannot be reached, or refuses.
        BrokerError: no Kafka is named and the embedded one does not run.
    """
    admin = _admin(settings)
    try:
        known = _partitions(admin)
        there = [name for name in settings.kafka.topics if name in known]
        for future in admin.delete_topics(there, operation_timeout=TIMEOUT_S).values() if there else ():
            future.result(TIMEOUT_S)
    except (KafkaException, TimeoutError) as error:
        raise TransportError(f"The topics {settings.kafka.topic_prefix}* cannot be removed: {_text(error)}.") from error


def _admin(settings: Settings) -> AdminClient:
    config: dict[str, Any] = {**client_config(settings), "logger": QUIET}
    try:
        return AdminClient(config)
    except KafkaException as error:
        raise TransportError(f"kafka.client of the settings is refused by librdkafka: {_text(error)}.") from error


def max_bytes(name: str, kafka: KafkaSettings) -> int:
    """The topic's ``max.message.bytes``. A dead letter always fits: the original record and what went wrong."""
    return kafka.max_message_bytes * (DEAD_LETTER_FACTOR if name == kafka.dead_letters else 1)


def topic_config(name: str, kafka: KafkaSettings) -> dict[str, str]:
    """A new topic's own settings. With fewer than three replicas, two in sync would not outlast a broker's restart."""
    config = {MAX_BYTES: str(max_bytes(name, kafka))}
    return {**config, MIN_IN_SYNC: "2"} if kafka.replication_factor >= 3 else config


def _partitions(admin: AdminClient) -> dict[str, int]:
    return {name: len(topic.partitions) for name, topic in admin.list_topics(timeout=TIMEOUT_S).topics.items()}


def _create(admin: AdminClient, name: str, kafka: KafkaSettings) -> bool:
    """Make one topic; ``False`` when another process was quicker."""
    topic = NewTopic(
        name,
        num_partitions=kafka.partitions,
        replication_factor=kafka.replication_factor,
        config=topic_config(name, kafka),
    )
    try:
        _settle(admin.create_topics([topic], operation_timeout=TIMEOUT_S))
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise TransportError(f"Topic {name} cannot be made: {_text(error)}.") from error
        return False
    return True


def _grow(admin: AdminClient, known: Mapping[str, int], partitions: int) -> None:
    for name, has in known.items():
        if has > partitions:
            LOG.info("topic %s keeps its %d partitions: they cannot be made %d", name, has, partitions)
        elif has < partitions:
            _settle(admin.create_partitions([NewPartitions(name, partitions)], operation_timeout=TIMEOUT_S))
            LOG.warning("topic %s grew from %d to %d partitions: keys move between them", name, has, partitions)


def _raise_limits(admin: AdminClient, known: Mapping[str, int], kafka: KafkaSettings) -> None:
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in known]
    described = admin.describe_configs(resources, request_timeout=TIMEOUT_S) if resources else {}
    for resource, future in described.items():
        has, wanted = int(future.result(TIMEOUT_S)[MAX_BYTES].value), max_bytes(resource.name, kafka)
        if has < wanted:
            entry = ConfigEntry(MAX_BYTES, str(wanted), incremental_operation=AlterConfigOpType.SET)
            change = ConfigResource(ResourceType.TOPIC, resource.name, incremental_configs=[entry])
            _settle(admin.incremental_alter_configs([change], request_timeout=TIMEOUT_S))
            LOG.warning("topic %s takes records of up to %d bytes now, %d before", resource.name, wanted, has)


def _wait_until_seen(admin: AdminClient, kafka: KafkaSettings) -> None:
    """Kafka answers before its nodes have heard of a new topic or partition; a client then meets an unknown topic."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        seen = _partitions(admin)
        if all(seen.get(name, 0) >= kafka.partitions for name in kafka.topics):
            return
        time.sleep(POLL_S)
    raise TransportError(f"The topics were made, but Kafka does not show all of them after {TIMEOUT_S:.0f} s.")


def _settle(futures: Mapping[Any, Future[Any]]) -> None:
    next(iter(futures.values())).result(TIMEOUT_S)


def _text(error: Exception) -> str:
    reason = error.args[0] if error.args else "no answer in time"
    return reason.str() if isinstance(reason, KafkaError) else str(reason)
