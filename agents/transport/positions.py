"""Where each assigned partition starts, and where its log ends, for lag and for the watchdog.

Called on the poll thread, where every partition waits for the answer, so it asks the brokers as little as can be: what
comes with fetches is cached, and the rest is asked for all partitions in one request. Of a partition that nothing comes
from, the cached end tells nothing: behind a transaction that somebody left open the log grows, and not one record of it
may be read.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaException, TopicPartition

from agents.ledger import Partition
from agents.transport.commits import REFUSALS
from pipeline.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

__all__ = ["Positions"]

INTERVAL_S = 1.0
FAR_INTERVAL_S = 10.0
TIMEOUT_S = 0.5
UNKNOWN = (-1, -1)


class Positions:
    """Of the partitions that one consumer holds."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._starts: dict[Partition, int] = {}
        self._fetched: set[Partition] = set()
        self._asked: dict[Partition, int] = {}
        self._due_at = 0.0
        self._far_at = 0.0

    def forget(self, partitions: Iterable[Partition]) -> None:
        """``partitions`` are assigned anew, or have gone."""
        for partition in partitions:
            self._starts.pop(partition, None)
            self._asked.pop(partition, None)

    def fetched(self, partition: Partition) -> None:
        """Records of ``partition`` came."""
        self._fetched.add(partition)

    def due(self) -> bool:
        """Whether it is time to report; True once a second."""
        now = time.monotonic()
        if now < self._due_at:
            return False
        self._due_at = now + INTERVAL_S
        return True

    def bounds(self, assigned: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
        """Start under this assignment and end of what may be read, of each partition of which both are known."""
        moving, self._fetched = self._fetched, set()
        if (now := time.monotonic()) >= self._far_at:
            self._far_at = now + FAR_INTERVAL_S
            self._asked |= self.ask_ends([partition for partition in assigned if partition not in moving])
        cached = {partition: self._cached(partition) for partition in assigned}
        ends = {p: cached[p][1] if p in moving else self._asked.get(p, -1) for p in assigned}
        return {
            p: (max(self._starts[p], cached[p][0]), end) for p, end in ends.items() if p in self._starts and end >= 0
        }

    def ask_starts(self, partitions: Collection[Partition]) -> list[TopicPartition]:
        """Where ``partitions`` start: at the group's committed offset, or at the beginning where there is none.

        With ``isolation.level=read_committed`` there is no answer while a transaction holds one of the offsets.

        Returns:
            All of them with their offsets; fewer, or none, when they cannot be told yet.

        Raises:
            TransportError: the brokers refuse to tell.
        """
        wanted = [TopicPartition(*partition) for partition in partitions]
        try:
            found = self._consumer.committed(wanted, TIMEOUT_S) if wanted else []
        except KafkaException as error:
            if error.args[0].code() in REFUSALS:
                raise TransportError(f"the group's offsets could not be read: {error.args[0].str()}") from error
            return []
        known = [tp for tp in found if tp.error is None]
        for tp in known:
            self._starts[Partition(tp.topic, tp.partition)] = max(tp.offset, 0)
            if tp.offset < 0:
                tp.offset = OFFSET_BEGINNING
        return known

    def ask_ends(self, partitions: Collection[Partition], timeout_s: float = TIMEOUT_S) -> dict[Partition, int]:
        """The ends of what may be read, asked of the brokers; of none when one does not answer in time.

        A consumer with ``isolation.level=read_committed`` is told the last stable offset (KIP-98).
        """
        wanted = [TopicPartition(*partition, OFFSET_END) for partition in partitions]
        try:
            found = self._consumer.offsets_for_times(wanted, timeout_s) if wanted else []
        except KafkaException:
            return {}
        return {Partition(tp.topic, tp.partition): tp.offset for tp in found if tp.error is None}

    def _cached(self, partition: Partition) -> tuple[int, int]:
        """Beginning and end of the log as of the last fetch; negative where it is not known."""
        try:
            found = self._consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)
        except KafkaException:
            return UNKNOWN
        return cast("tuple[int, int] | None", found) or UNKNOWN  # whatever its types say
