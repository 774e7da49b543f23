"""The exactly-once outbox: outcomes wait here until a transaction can take them and all before them.

What a transaction carries is exactly the outcomes of the records below the offsets it commits: an outcome that is ready
early waits for the records before it in its partition, so a crash at any moment leaves each record either answered and
committed, or neither. A transaction that is aborted loses nothing: its outcomes are still here and go into the next
one, unless their partitions have moved.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from agents.daemon import DaemonThread
from agents.outbox import note
from agents.transactions import AbortedError
from pipeline.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from agents.ledger import Ledger, Partition
    from agents.outbox import CommitsOffsets, Place
    from agents.publisher import OutgoingRecord
    from agents.transactions import Transactions
    from pipeline.errors import MillraceError

__all__ = ["ExactlyOnceOutbox"]

LOG = logging.getLogger("millrace.transactions")
MARGIN_S = 10.0


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
        self._fresh = 0
        self._full = asyncio.Event()
        self._turn = asyncio.Lock()
        self._under_way: set[asyncio.Task[None]] = set()
        self._thread = DaemonThread("kafka-transactions")

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
        self._fresh += 1
        if self._fresh >= self._max_records:
            self._full.set()

    async def due(self) -> None:
        """Return after the interval, or when as many records as fill a transaction have come since the last one."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._full.wait(), self._interval_s)
        self._full.clear()

    async def commit(self) -> None:
        """One transaction over the unbroken prefix of every partition."""
        if not self._ledger.commits():
            return
        # Not in its turn: while partitions are being given up the poll thread waits for give_up, not for this.
        metadata = await asyncio.wrap_future(self._consumer.group_metadata())
        await self._transact(None, metadata)

    async def flush(self) -> None:
        """Nothing: the next commit delivers."""

    async def give_up(self, partitions: Sequence[Partition], metadata: Any) -> Mapping[Partition, int]:
        """A last transaction for ``partitions``; what cannot be committed is dropped, for its next owner repeats it."""
        await self._transact(partitions, metadata)
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

    async def _transact(self, partitions: Sequence[Partition] | None, metadata: Any) -> None:
        """One transaction for ``partitions`` (all when None), after the one under way.

        It sees to its own result: a caller that waits no longer changes nothing of what Kafka does, and the records of
        a transaction that was left to itself must not go into another one.
        """
        task = asyncio.create_task(self._take_turn(partitions, metadata))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        await asyncio.shield(task)

    async def _take_turn(self, partitions: Sequence[Partition] | None, metadata: Any) -> None:
        async with self._turn:
            if self.failed.done():
                return  # what became of the last transaction may be unknown: nothing may follow it
            if offsets := self._ledger.commits(partitions):
                await self._run(offsets, metadata)

    async def _run(self, offsets: Mapping[Partition, int], metadata: Any) -> None:
        taken = [(p, o, held) for p, end in offsets.items() for o, held in self._held[p].items() if o < end]
        records = [record for _, _, held in taken for record in held.records]
        epochs = {partition: self._ledger.epoch(partition) for partition in offsets}
        self._fresh = 0
        try:
            async with asyncio.timeout(self._transactions.bound_s + MARGIN_S):
                await self._blocking(self._transactions.run, records, offsets, metadata)
        except AbortedError as error:
            LOG.warning("a transaction of %d records was aborted (%s); trying again", len(records), error)
        except TransportError as error:
            note(self.failed, error)
        except TimeoutError:
            note(self.failed, TransportError("a transaction hangs in the Kafka client, long past its own time limits."))
        except Exception as error:  # the task is nobody's but its own
            note(self.failed, TransportError(f"a transaction failed unexpectedly: {error!r}. Report this."))
        else:
            self._ledger.committed({p: o for p, o in offsets.items() if self._ledger.epoch(p) == epochs[p]})
            for partition, offset, held in taken:
                self._close(partition, offset, held)

    def _close(self, partition: Partition, offset: int, held: Held) -> None:
        """``held`` is committed, unless it was dropped meanwhile; then another may stand in its place."""
        waiting = self._held[partition]
        if waiting.get(offset) is held:
            del waiting[offset]
            self._count -= 1
            held.closed(True)

    async def _blocking(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.wrap_future(self._thread.submit(function, *args))
