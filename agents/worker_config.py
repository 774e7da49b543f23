"""librdkafka's settings of a worker's consumer and producer.

Keys of ``kafka.client`` (security, host names, tuning) come first; what delivery depends on is set after them and
cannot be changed that way.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from agents.library_log import LIBRARY_LOG
from agents.topics import client_config

if TYPE_CHECKING:
    from pipeline.settings import KafkaSettings, Settings

__all__ = ["consumer_config", "producer_config", "transaction_config"]

PREFETCH_KIB = 16 * 1024
LARGEST_MESSAGE = 1_000_000_000


def consumer_config(settings: Settings) -> dict[str, Any]:
    """The consumer's: it commits only what the ledger says, and starts a new group at the earliest record."""
    largest = min(settings.kafka.max_message_bytes * 4, LARGEST_MESSAGE // 2)
    return {
        "queued.max.messages.kbytes": PREFETCH_KIB,
        "fetch.queue.backoff.ms": 10,
        "fetch.wait.max.ms": 100,
        "topic.metadata.refresh.interval.ms": 30_000,  # how soon added partitions are noticed; 5 min by default
        "fetch.message.max.bytes": largest,
        "fetch.max.bytes": largest,
        # librdkafka also refuses to unpack a batch beyond this, and a record that cannot be unpacked can't be answered.
        "receive.message.max.bytes": LARGEST_MESSAGE,
        **client_config(settings),
        "group.id": settings.kafka.group_id,
        **_membership(settings.kafka),
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "logger": LIBRARY_LOG,
    }


def _membership(kafka: KafkaSettings) -> dict[str, Any]:
    config: dict[str, Any] = {"group.protocol": kafka.group_protocol}
    if kafka.group_protocol == "classic":  # in the new protocol the broker decides all of these
        config["session.timeout.ms"] = int(kafka.session_timeout_s * 1_000)
        config["heartbeat.interval.ms"] = int(kafka.session_timeout_s * 1_000 / 4)
        config["partition.assignment.strategy"] = "cooperative-sticky"
    if kafka.group_instance_id:
        config["group.instance.id"] = kafka.group_instance_id
    return config


def transaction_config(settings: Settings) -> dict[str, Any]:
    """A transactional producer's.

    Its id is the process's own, for the group fences zombies (KIP-447), not the id. A static member's is the member's:
    the worker that takes its place need not wait until the transaction that it may have left open has timed out.
    """
    return {
        **producer_config(settings),
        "transactional.id": f"{settings.kafka.group_id}-{_member_id(settings.kafka).hex}",
        # librdkafka 2.16 forgets its coordinator when it bootstraps again, and then commits nothing for many seconds.
        "metadata.recovery.strategy": "none",
        "transaction.timeout.ms": int(settings.kafka.transaction_timeout_s * 1_000),
        # At most the transaction's timeout, or librdkafka refuses it.
        "delivery.timeout.ms": int(
            min(settings.kafka.delivery_timeout_s, settings.kafka.transaction_timeout_s) * 1_000
        ),
        "linger.ms": 0,
    }


def _member_id(kafka: KafkaSettings) -> uuid.UUID:
    """The same for a static member and its replacement, and nobody else's, whatever the names contain."""
    if not kafka.group_instance_id:
        return uuid.uuid4()
    return uuid.uuid5(uuid.NAMESPACE_OID, repr((kafka.group_id, kafka.group_instance_id)))


def producer_config(settings: Settings) -> dict[str, Any]:
    """The producer's: idempotent, so that retries neither repeat nor reorder."""
    return {
        "compression.type": "lz4",
        "linger.ms": 5,
        **client_config(settings),
        # Before compression, and it must fit whatever a consumer could fetch: the broker's own bound decides.
        "message.max.bytes": LARGEST_MESSAGE,
        "delivery.timeout.ms": int(settings.kafka.delivery_timeout_s * 1_000),
        "enable.idempotence": True,
        "acks": "all",
        "logger": LIBRARY_LOG,
    }
