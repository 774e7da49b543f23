"""Exactly once: outcomes, dead letters, last pieces of answers and offsets, in one Kafka transaction at a time.

The steps of one transaction are numbered in :meth:`Transactions.run`. What a transaction carries is exactly the
outcomes of the records below the offsets it commits: an outcome that is ready early waits for the records before it in
its partition, so a crash at any moment leaves each record either answered and committed, or neither. The group's
membership goes along with the offsets, so a worker that has lost its partitions without knowing it (a zombie) is
refused by the broker (KIP-447).

A transaction that is aborted loses nothing: its outcomes are still here and go into the next one, unless their
partitions have moved. A fenced producer ends the worker.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from agents.daemon import DaemonThread
from agents.outbox import note
from pipeline.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from agents.ledger import Ledger, Partition
    from agents.outbox import CommitsOffsets, Place
    from agents.publisher import OutgoingRecord
    from pipeline.errors import MillraceError

__all__ = ["ExactlyOnceOutbox", "Transactions"]

LOG = logging.getLogger("millrace.transactions")
OPEN_TIMEOUT_S = 30.0
MIN_STEP_S = 1.0


class AbortedError(Exception):
    """The transaction was aborted; its records may go into the next one."""


class Transactions:
    """One transactional producer. Every call blocks, and all of them belong to one thread.

    Args:
        config: librdkafka settings with a ``transactional.id`` of this process's own.
        timeout_s: bound of one whole transaction.
    """

    def __init__(self, config: Mapping[str, Any], *, timeout_s: float) -> None:
        self._producer = Producer(dict(config))
        self._servers = config.get("bootstrap.servers", "")
        self._timeout_s = timeout_s
        self._deadline = 0.0

    def open(self) -> None:
        """Register the transactional id. Raises TransportError."""
        try:
            self._producer.init_transactions(OPEN_TIMEOUT_S)
        except KafkaException as error:
            raise TransportError(
                f"no transactions from Kafka at {self._servers} within {OPEN_TIMEOUT_S:g} s ({error.args[0].str()}). "
                "Is it running, version 2.5 or later, and is kafka.bootstrap_servers right?"
            ) from error

    def run(self, records: Sequence[OutgoingRecord], offsets: Mapping[Partition, int], metadata: Any) -> None:
        """Publish ``records`` and commit ``offsets``, both or neither.

        Raises:
            AbortedError: neither; try again with fresh metadata.
            TransportError: the producer is fenced or broken; the worker must end.
        """
        self._deadline = time.monotonic() + self._timeout_s
        try:
            # 1. Begin.
            self._producer.begin_transaction()
            # 2. Produce.
            self._produce(records)
            # 3. Offsets, with the membership that fences zombies.
            self._producer.send_offsets_to_transaction(_positions(offsets), metadata, self._left_s())
            # 4. Commit: flushes, and fails unless every record was delivered.
            self._commit()
        except KafkaException as error:
            self._abort(error)

    def close(self) -> None:
        """Let go of what is queued; an open transaction times out at the broker."""
        self._producer.purge()
        with suppress(KafkaException):  # a fenced producer refuses even this, and its worker must end by its own reason
            self._producer.flush(0)

    def _produce(self, records: Sequence[OutgoingRecord]) -> None:
        for record in records:
            while not self._try_produce(record):
                if time.monotonic() > self._deadline:
                    raise TransportError(f"Kafka has taken none of a transaction's records for {self._timeout_s:g} s.")
                self._producer.poll(0.05)

    def _try_produce(self, record: OutgoingRecord) -> bool:
        try:
            self._producer.produce(record.topic, record.value, record.key, headers=record.headers)
        except BufferError:
            return False
        return True

    def _left_s(self) -> float:
        return max(MIN_STEP_S, self._deadline - time.monotonic())

    def _commit(self) -> None:
        """Commit; what timed out is the same commit still, so it is asked again rather than aborted."""
        while True:
            try:
                self._producer.commit_transaction(self._left_s())
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > self._deadline:
                    raise
            else:
                return

    def _abort(self, error: KafkaException) -> None:
        """Abort on account of ``error``. Raises AbortedError, or TransportError when nothing more is possible."""
        reason = error.args[0]
        if reason.fatal():
            raise TransportError(f"the transactional producer cannot go on: {reason.str()}") from error
        try:
            self._producer.abort_transaction(self._left_s())
        except KafkaException as second:
            raise TransportError(f"a transaction could not be aborted: {second} (after: {reason.str()})") from second
        if reason.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            raise TransportError(
                f"a transaction holds a record that its topic does not take: {reason.str()}. Raise max.message.bytes "
                "of the results and dead letter topics: `millrace topics` sets it as kafka.max_message_bytes asks."
            ) from error
        raise AbortedError(reason.str()) from error


def _positions(offsets: Mapping[Partition, int]) -> list[TopicPartition]:
    return [TopicPartition(*partition, offset) for partition, offset in offsets.items()]


class Held(NamedTuple):
    """A computed outcome that no transaction has taken yet."""

    records: Sequence[OutgoingRecord]
    closed: Callable[[bool], None]


class ExactlyOnceOutbox:
    """Holds outcomes until their records and all before them can be committed, then does so in one transaction.

    Args:
        ledger: of the worker.
        transactions: the producer.
        consumer: tells the group's membership.
        interval_s: seconds between two transactions.
        max_records: records that cut a transaction before its time.
    """

    def __init__(
        self,
        ledger: Ledger,
        transactions: Transactions,
        consumer: CommitsOffsets,
        *,
        interval_s: float,
        max_records: int,
    ) -> None:
        self.failed: asyncio.Future[MillraceError] = asyncio.get_running_loop().create_future()
        self._interval_s = interval_s
        self._ledger = ledger
        self._transactions = transactions
        self._consumer = consumer
        self._max_records = max_records
        self._held: defaultdict[Partition, dict[int, Held]] = defaultdict(dict)
        self._count = 0
        self._turn = asyncio.Lock()
        self._thread = DaemonThread("kafka-transactions")
        self._full = asyncio.Event()

    @property
    def held(self) -> int:
        """Outcomes that no transaction has committed."""
        return self._count

    async def open(self) -> None:
        """Register with the broker. Raises TransportError."""
        await self._blocking(self._transactions.open)

    def put(self, place: Place, records: Sequence[OutgoingRecord], closed: Callable[[bool], None]) -> None:
        """Hold ``records`` for a transaction to come."""
        if not self._ledger.settle(*place):
            closed(False)
            return
        self._held[place.partition][place.offset] = Held(records, closed)
        self._count += 1
        if self._count >= self._max_records:
            self._full.set()

    async def due(self) -> None:
        """Return after the interval, or when a full transaction waits."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._full.wait(), self._interval_s)
        self._full.clear()

    async def commit(self) -> None:
        """One transaction over the unbroken prefix of every partition."""
        if not self._ledger.commits():
            return
        # Not under the lock: while partitions are being given up the poll thread waits for give_up, not for this.
        metadata = await asyncio.wrap_future(self._consumer.group_metadata())
        async with self._turn:
            if offsets := self._ledger.commits():
                await self._transact(offsets, metadata)

    async def flush(self) -> None:
        """Nothing: the next commit delivers."""

    async def give_up(self, partitions: Sequence[Partition], metadata: Any) -> Mapping[Partition, int]:
        """A last transaction for ``partitions``; what cannot be committed is dropped, for its next owner repeats it."""
        async with self._turn:
            if offsets := self._ledger.commits(partitions):
                await self._transact(offsets, metadata)
        return {}

    def drop(self, partitions: Iterable[Partition]) -> None:
        """Forget what is held: the next owner computes it again, with the same outcome ids."""
        for partition in partitions:
            dropped = self._held.pop(partition, {})
            self._count -= len(dropped)
            for held in dropped.values():
                held.closed(False)

    async def close(self, timeout_s: float) -> None:
        """Let go of the producer; a transaction that still waits for Kafka is left to time out at the broker."""
        try:
            await asyncio.wait_for(self._blocking(self._transactions.close), timeout_s)
        except TimeoutError:
            LOG.warning("left a transaction unfinished: Kafka does not answer")

    async def _transact(self, offsets: Mapping[Partition, int], metadata: Any) -> None:
        taken = [(p, o, held) for p, end in offsets.items() for o, held in self._held[p].items() if o < end]
        records = [record for _, _, held in taken for record in held.records]
        try:
            await self._blocking(self._transactions.run, records, offsets, metadata)
        except AbortedError as error:
            LOG.warning("a transaction of %d records was aborted (%s); trying again", len(records), error)
            return
        except TransportError as error:
            note(self.failed, error)
            return
        self._ledger.committed(offsets)
        for partition, offset, held in taken:
            if self._held[partition].pop(offset, None) is not None:  # else it was dropped meanwhile
                self._count -= 1
                held.closed(True)

    async def _blocking(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.wrap_future(self._thread.submit(function, *args))
