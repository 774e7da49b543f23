"""The offsets that a consumer group has committed, asked for from outside of the group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from agents.ledger import Partition

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["committed_offsets"]


def committed_offsets(
    config: Mapping[str, Any], partitions: Collection[Partition], timeout_s: float
) -> dict[Partition, int]:
    """The committed offsets of ``partitions``; one that has none is left out.

    With ``isolation.level=read_committed`` in ``config``, the answer waits for pending transactions (KIP-447).

    Args:
        config: librdkafka settings of a consumer, with its ``group.id``; the group is not joined.
        partitions: of any topics.
        timeout_s: how long to wait.

    Raises:
        KafkaException: no answer for one of them in time.
    """
    consumer = Consumer(dict(config))
    try:
        found = consumer.committed([TopicPartition(*partition) for partition in partitions], timeout_s)
    finally:
        consumer.close()
    for tp in found:
        if tp.error is not None:
            raise KafkaException(tp.error)
    return {Partition(tp.topic, tp.partition): tp.offset for tp in found if tp.offset >= 0}
