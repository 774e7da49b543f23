"""The outbox: where computed outcomes wait until Kafka has them, and how offsets follow them.

Two of them, behind one Protocol. :class:`AtLeastOnceOutbox` publishes an outcome as soon as it is there, settles its
record when the brokers have it, and commits offsets now and then. :class:`agents.exactly_once.ExactlyOnceOutbox` does
all of that in Kafka transactions.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from agents.transport.poller import CommitRefusedError
from pipeline.errors import EngineError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Future

    from agents.ledger import Ledger, Partition
    from agents.publisher import OutgoingRecord, Publisher
    from pipeline.errors import MillraceError

__all__ = ["AtLeastOnceOutbox", "CommitsOffsets", "Outbox", "Place", "note"]

LOG = logging.getLogger("millrace.outbox")
FLUSH_TIMEOUT_S = 2.0
FLUSH_POLL_S = 0.005


class Place(NamedTuple):
    """A fetched record: its partition, the assignment it was fetched under, its offset."""

    partition: Partition
    epoch: int
    offset: int


def note(failed: asyncio.Future[MillraceError], error: MillraceError) -> None:
    """Keep ``error`` as the reason of the failure, unless there is one already."""
    if not failed.done():
        failed.set_result(error)


class CommitsOffsets(Protocol):
    """What the outboxes need of the poller."""

    def commit(self, offsets: Mapping[Partition, int]) -> Future[Mapping[Partition, int]]:
        """Commit ``offsets``; the future gives those the broker took, or raises TransportError."""
        ...

    def group_metadata(self) -> Future[Any]:
        """The consumer's current membership, as ``send_offsets_to_transaction`` wants it."""
        ...


class Outbox(Protocol):
    """Takes the outcomes of records, in any order, and keeps the promise of its delivery mode. On the event loop."""

    failed: asyncio.Future[MillraceError]
    """Done when an outcome cannot be delivered; nothing is committed past it."""

    def put(self, place: Place, records: Sequence[OutgoingRecord], closed: Callable[[bool], None]) -> None:
        """Publish ``records``, the outcome of ``place``, and let its offset be committed.

        ``closed`` is called once: with True when that is done, with False when the partition has gone before.
        """

    @property
    def held(self) -> int:
        """Outcomes whose records are settled, but are neither published nor dropped."""
        ...

    async def due(self) -> None:
        """Return when it is time for the next :meth:`commit`."""

    async def flush(self) -> None:
        """Wait, within a bound, until what was published is delivered."""

    async def commit(self) -> None:
        """Commit what can be committed now; trouble that passes is logged and tried again."""

    def drop(self, partitions: Iterable[Partition]) -> None:
        """Forget what is held for ``partitions``: they are another worker's."""

    async def give_up(self, partitions: Sequence[Partition], metadata: Any) -> Mapping[Partition, int]:
        """``partitions`` are leaving and this is the last chance to commit for them; :meth:`drop` follows.

        Args:
            partitions: still held.
            metadata: the consumer's membership at this moment.

        Returns:
            The offsets that the caller must commit itself.
        """
        ...

    async def open(self) -> None:
        """Make ready. Raises TransportError."""

    async def close(self, timeout_s: float) -> None:
        """Wait at most ``timeout_s`` for what is under way, and let go of the producer."""


class AtLeastOnceOutbox:
    """Publish, verify the delivery, settle, commit: a crash repeats what was not committed, with the same outcome ids.

    Args:
        ledger: of the worker.
        publisher: sends the records.
        consumer: commits the offsets.
        interval_s: seconds between two commits.
    """

    def __init__(self, ledger: Ledger, publisher: Publisher, consumer: CommitsOffsets, *, interval_s: float) -> None:
        self.failed: asyncio.Future[MillraceError] = asyncio.get_running_loop().create_future()
        self._interval_s = interval_s
        self._ledger = ledger
        self._publisher = publisher
        self._consumer = consumer
        self._undelivered: defaultdict[Partition, int] = defaultdict(int)

    def put(self, place: Place, records: Sequence[OutgoingRecord], closed: Callable[[bool], None]) -> None:
        """Publish at once; ``place`` settles when every replica in sync has the records."""
        self._undelivered[place.partition] += 1
        self._publisher.publish(records, partial(self._delivered, place, closed))

    def _delivered(self, place: Place, closed: Callable[[bool], None], error: TransportError | None) -> None:
        self._undelivered[place.partition] -= 1
        settled = False
        try:
            if error is not None:
                note(self.failed, error)
            else:
                settled = self._ledger.settle(*place)
        except ValueError as bug:
            note(self.failed, EngineError(str(bug)))
        closed(settled)

    @property
    def held(self) -> int:
        """None: what the brokers have not confirmed is not settled."""
        return 0

    async def due(self) -> None:
        """Return after the interval."""
        await asyncio.sleep(self._interval_s)

    def drop(self, partitions: Iterable[Partition]) -> None:
        """Nothing to forget: what is under way is on its way, and the ledger ignores it."""

    async def flush(self) -> None:
        """Wait for the delivery reports."""
        await self._wait_for(list(self._undelivered))

    async def _wait_for(self, partitions: Sequence[Partition]) -> None:
        deadline = time.monotonic() + FLUSH_TIMEOUT_S
        # An event would cost every record of a worker's life for a wait at the end of an assignment.
        while any(self._undelivered[name] for name in partitions) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(FLUSH_POLL_S)

    async def commit(self) -> None:
        """Commit the unbroken prefix of every partition."""
        offsets = self._ledger.commits()
        if not offsets:
            return
        try:
            self._ledger.committed(await asyncio.wrap_future(self._consumer.commit(offsets)))
        except CommitRefusedError as error:
            note(self.failed, error)
        except TransportError as error:
            LOG.warning("%s; trying again", error)

    async def give_up(self, partitions: Sequence[Partition], metadata: Any) -> Mapping[Partition, int]:  # noqa: ARG002
        """What is delivered of ``partitions`` and not committed yet."""
        await self._wait_for(partitions)
        return self._ledger.commits(partitions)

    async def open(self) -> None:
        """Nothing: the publisher is its owner's."""

    async def close(self, timeout_s: float) -> None:
        """Nothing: the publisher is its owner's."""
