"""Commits of one consumer that nobody waits for on the poll thread.

While a consumer group rebalances the broker keeps a commit's answer back until the rebalance is over: the consumer's
connection to its coordinator is one queue, and its request to join stands before the commit. Waiting for the answer
there would stop every partition for as long. In a rebalance callback no request to join is under way, so there a commit
may be waited for. It is made on the poll thread all the same: confluent-kafka keeps every other thread waiting until
the callback has ended, and after that the offsets may be another owner's to commit.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from agents.ledger import Partition
from pipeline.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from concurrent.futures import Future

__all__ = ["CommitRefusedError", "Commits", "commit_now"]

ATTEMPTS = 3
LOG = logging.getLogger("millrace.transport")
REFUSALS = frozenset(
    {
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)
REBALANCING = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.UNKNOWN_MEMBER_ID,
    }
)
"""The membership changed meanwhile: what was not taken comes again with the next commit, if it is still held."""


class CommitRefusedError(TransportError):
    """The broker will never take this worker's commits."""


class Commits:
    """The commits under way, oldest first. Used on the poll thread only."""

    def __init__(self) -> None:
        self._waiting: deque[Future[Mapping[Partition, int]]] = deque()

    def begin(
        self, consumer: Consumer, offsets: Mapping[Partition, int], done: Future[Mapping[Partition, int]]
    ) -> None:
        """Commit ``offsets``; ``done`` gets those the broker took, or the TransportError."""
        if not offsets:
            done.set_result({})
            return
        try:
            consumer.commit(offsets=_positions(offsets), asynchronous=True)
        except KafkaException as error:
            done.set_exception(_failure(error.args[0]))
        else:
            self._waiting.append(done)

    def on_answer(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """The answer to the oldest; librdkafka's ``on_commit``, called inside ``consume()`` and ``close()``."""
        if not self._waiting:
            return
        done = self._waiting.popleft()
        if error is None or error.code() in REBALANCING:
            done.set_result(_taken(partitions))
        else:
            done.set_exception(_failure(error))

    def end(self) -> None:
        """The consumer is closed: no more answers come."""
        while self._waiting:
            self._waiting.popleft().set_exception(TransportError("the Kafka consumer ended before it had committed."))


def commit_now(consumer: Consumer, offsets: Mapping[Partition, int]) -> None:
    """Commit ``offsets`` and wait for the answer. Raises TransportError unless the broker takes all of them."""
    left = dict(offsets)
    for _ in range(ATTEMPTS):
        if not left:
            break
        try:
            taken = _taken(consumer.commit(offsets=_positions(left), asynchronous=False) or [])
        except KafkaException as error:
            # With group.protocol=consumer the epoch may have moved on while the commit was under way.
            if error.args[0].code() not in REBALANCING:
                raise _failure(error.args[0]) from error
        else:
            left = {partition: offset for partition, offset in left.items() if partition not in taken}
    if left:
        raise TransportError(f"offsets could not be committed: the membership had changed ({len(left)} partitions)")


def _positions(offsets: Mapping[Partition, int]) -> list[TopicPartition]:
    return [TopicPartition(*partition, offset) for partition, offset in offsets.items()]


def _taken(partitions: Iterable[TopicPartition]) -> dict[Partition, int]:
    """The offsets that the broker took."""
    taken = {}
    for tp in partitions:
        if tp.error is None:
            taken[Partition(tp.topic, tp.partition)] = tp.offset
        elif tp.error.code() not in REBALANCING:
            LOG.warning("offset %d of %s/%d was not committed: %s", tp.offset, tp.topic, tp.partition, tp.error)
    return taken


def _failure(error: KafkaError) -> TransportError:
    kind = CommitRefusedError if error.code() in REFUSALS else TransportError
    return kind(f"offsets could not be committed: {error.str()}")
