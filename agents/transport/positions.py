"""Where each assigned partition started and where its log ends, for lag and for the watchdog.

Called on the poll thread between two fetches, so it asks the brokers as little as can be: what comes with fetches is
cached, and the rest is asked for all partitions in one request. Of a partition that nothing comes from, the cached end
tells nothing: behind a transaction that somebody left open the log grows, and not one record of it may be read.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition

from agents.ledger import Partition

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

    def fetched(self, partition: Partition, offset: int) -> None:
        """Records of ``partition`` came; the first under an assignment tells where it started."""
        self._starts.setdefault(partition, offset)
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
        self._ask_starts([partition for partition in assigned if partition not in self._starts])
        cached = {partition: self._cached(partition) for partition in assigned}
        ends = {p: cached[p][1] if p in moving else self._asked.get(p, -1) for p in assigned}
        return {
            p: (max(self._starts[p], cached[p][0]), end) for p, end in ends.items() if p in self._starts and end >= 0
        }

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

    def _ask_starts(self, partitions: Collection[Partition]) -> None:
        """What nothing was fetched of starts at its committed offset, or at the beginning where there is none."""
        wanted = [TopicPartition(*partition) for partition in partitions]
        try:
            found = self._consumer.committed(wanted, TIMEOUT_S) if wanted else []
        except KafkaException:
            return
        for tp in found:
            if tp.error is None:
                self._starts[Partition(tp.topic, tp.partition)] = max(tp.offset, 0)
