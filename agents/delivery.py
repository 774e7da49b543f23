"""Delivery: every fetched record is opened in the ledger, served, its outcome published, and only then committed.

The poll thread tells of records and rebalances (it is a :class:`~agents.transport.poller.Listener`); everything else
happens on the event loop. The steps of one record are numbered in :meth:`Delivery._serve`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import msgspec
from mode import Service

from agents.lag import LagWatch
from agents.ordering import KeyOrder
from agents.outbox import Place, note
from agents.records import offset_of, place, record_size
from agents.serving import encode_piece
from agents.transport.batches import Batch
from pipeline.errors import EngineError, MillraceError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from confluent_kafka import Message

    from agents.ledger import Ledger, Partition
    from agents.outbox import Outbox
    from agents.publisher import OutgoingRecord, Publisher
    from agents.serving import Reply, Server
    from agents.transport.flow import Flow
    from agents.transport.poller import Poller
    from pipeline.metrics import Metrics
    from schemas.messages import TokenPiece
    from schemas.records import RawRecord

__all__ = ["Delivery"]

LOG = logging.getLogger("millrace.delivery")
GIVE_UP_GRACE_S = 0.5
"""Every partition stands still for so long at most while some are given up: short work is finished, an answer that
takes many seconds is better begun anew by the next owner than waited for by all."""
SETTLING_S = 0.005
GIVE_UP_TIMEOUT_S = 5.0
STOP_FETCHING_TIMEOUT_S = 3.0
LAST_COMMIT_TIMEOUT_S = 5.0
LEAVE_TIMEOUT_S = 5.0


class Delivery(Service):  # type: ignore[misc]
    """The ledger's shell: what is fetched, in work, delivered and committed.

    Args:
        server: serves one record.
        ledger: the worker's own.
        outbox: gets the outcomes.
        pieces: sends the pieces of streamed answers.
        poller: fetches, and leaves the group in the end.
        flows: by topic, how much is held.
        tokens: topic of streamed pieces.
        metrics: counts records, outcomes, lag, held partitions.
        route: hands a batch to the agents.
        watchdog_timeout_s: how long a partition may stand still while its log grows.
        runs: how often the device has run.
    """

    def __init__(
        self,
        *,
        server: Server,
        ledger: Ledger,
        outbox: Outbox,
        pieces: Publisher,
        poller: Poller,
        flows: Mapping[str, Flow],
        tokens: str,
        metrics: Metrics,
        route: Callable[[Batch], None],
        watchdog_timeout_s: float,
        runs: Callable[[], int],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._event_loop = asyncio.get_running_loop()
        self.failed = outbox.failed  # one for both: after either's failure no outcome is published
        self.poller = poller
        self._server = server
        self._ledger = ledger
        self._outbox = outbox
        self._pieces = pieces
        self._flows = flows
        self._tokens = tokens
        self._records = metrics.records
        # Found once: finding a metric by its labels costs more than counting in it.
        self._outcomes = cache(metrics.outcomes.labels)
        self._steps = metrics.steps.labels  # not kept: those of a version that is served no more are dropped
        self._end_to_end = cache(metrics.end_to_end.labels)
        self._route = route
        self._runs = runs
        self._lag = LagWatch(ledger, metrics, timeout_s=watchdog_timeout_s, work=self._work)
        self._working: defaultdict[Partition, set[asyncio.Task[bool]]] = defaultdict(set)
        self._leaving: set[Partition] = set()
        self._order = KeyOrder()

    # The poll thread.

    def on_assigned(self, partitions: list[Partition]) -> None:
        """Start an epoch for ``partitions``."""
        self._soon(self._ledger.assign, partitions)

    def on_messages(self, partition: Partition, messages: tuple[Message, ...]) -> None:
        """Open entries and route the batch."""
        self._soon(self._open, partition, messages)

    def on_revoked(self, partitions: list[Partition], metadata: Any) -> Mapping[Partition, int]:
        """The offsets to commit before ``partitions`` go, after a short wait for what is nearly done."""
        future = asyncio.run_coroutine_threadsafe(self._give_up(partitions, metadata), self._event_loop)
        try:
            return future.result(GIVE_UP_TIMEOUT_S)
        except TimeoutError:
            LOG.warning("gave up %s without a last commit: it took over %g s", _words(partitions), GIVE_UP_TIMEOUT_S)
            future.cancel()
            self._soon(self._drop, partitions)
            return {}

    def on_lost(self, partitions: list[Partition]) -> None:
        """Drop what is under way for ``partitions``: their next owner repeats it."""
        LOG.warning("lost %s to another worker", _words(partitions))
        self._soon(self._drop, partitions)

    def on_position(self, bounds: Mapping[Partition, tuple[int, int]], held: frozenset[Partition]) -> None:
        """Report lag and what is held; end the worker when a partition stands still."""
        self._soon(self._look, dict(bounds), held)

    def on_failed(self, error: TransportError) -> None:
        """End the worker."""
        self._soon(self.fail, error)

    def _soon(self, function: Callable[..., None], *args: Any) -> None:
        self._event_loop.call_soon_threadsafe(self._guarded, function, *args)

    # The event loop.

    def fail(self, error: MillraceError) -> None:
        """Note that the worker cannot go on; the first error is kept."""
        note(self.failed, error)

    def fail_on_bug(self, error: Exception, where: str) -> None:
        """End the worker on an error that nothing expects; what it concerns stays uncommitted."""
        LOG.error("%s", where, exc_info=error)
        self.fail(EngineError(f"{where}: an unexpected failure, with its records uncommitted: {error!r}. Report this."))

    def admit(self, batch: Batch) -> None:
        """Start serving the records of ``batch``. Called by the agents."""
        if self._ledger.epoch(batch.partition) != batch.epoch or batch.partition in self._leaving:
            self._give_back(batch.messages)  # the partition was given up while the batch lay on the channel
            return
        flow, working = self._flows[batch.partition.topic], self._working[batch.partition]
        for record, message in zip(batch.records(), batch.messages, strict=True):
            size = record_size(message)
            task = asyncio.create_task(self._serve(batch, record, size))
            working.add(task)
            task.add_done_callback(partial(_ended, working, flow, size))

    async def drain(self, timeout_s: float) -> int:
        """Fetch no more, finish what is held within ``timeout_s``, commit. Returns how many records are given back."""
        if self.poller.is_alive():
            try:
                await asyncio.wait_for(asyncio.wrap_future(self.poller.stop_fetching()), STOP_FETCHING_TIMEOUT_S)
                await self._settled(None, timeout_s)
                await asyncio.wait_for(self._last_commit(), LAST_COMMIT_TIMEOUT_S)
            except (TransportError, TimeoutError) as error:
                LOG.warning("the last commit was not made: %s", str(error) or "Kafka did not answer in time")
        return self._ledger.unsettled() + self._outbox.held

    async def leave(self) -> None:
        """Leave the consumer group; what is unsettled is served by its next owner.

        While Kafka is away it cannot be told; the group then notices after ``kafka.session_timeout_s``.
        """
        if not await asyncio.to_thread(self.poller.stop, LEAVE_TIMEOUT_S):
            LOG.warning("left the group without a word: Kafka does not answer")

    async def _last_commit(self) -> None:
        await self._outbox.flush()
        await self._outbox.commit()

    def _guarded(self, function: Callable[..., None], *args: Any) -> None:
        """Call ``function``; a callback of the loop that raises would only be logged, and the worker stand still."""
        try:
            function(*args)
        except Exception as error:
            self.fail_on_bug(error, f"the delivery, in {function.__name__}")

    def _open(self, partition: Partition, messages: tuple[Message, ...]) -> None:
        if partition not in self._ledger:
            self._give_back(messages)
            return
        offsets = [offset_of(message) for message in messages]
        if self._ledger.rewinds(partition, offsets[0]):
            LOG.warning("%s begins again at %d: it was truncated or made anew", _words([partition]), offsets[0])
            self._drop([partition])
            self._ledger.assign([partition])
        epoch = self._ledger.open(partition, offsets)
        self._records.labels(partition.topic).inc(len(messages))
        self._route(Batch(partition, epoch, messages))

    async def _serve(self, batch: Batch, record: RawRecord, size: int) -> bool:
        """Serve one record. Returns whether the outbox has its outcome, and with it the record's share of the flow."""
        last_pieces: list[OutgoingRecord] = []
        key = None if record.key is None else (batch.partition, record.key)
        try:
            # 1. Decode and compute; 2. wait for earlier outcomes of the same key.
            async with self._order.turn(key):
                reply = await self._server.serve(record, self._emitter(record, last_pieces))
                computed = time.perf_counter()
            if self.failed.done():
                return False  # an earlier record of this key may be the one that failed
            # 3. Publish, verify the delivery, settle, commit: the outbox, in the order of its delivery mode.
            records = [*last_pieces, *self._server.encode(record, _timed(reply, computed))]
            closed = partial(self._guarded, self._closed, record, size, reply, computed)
            self._outbox.put(Place(batch.partition, batch.epoch, record.offset), records, closed)
        except MillraceError as error:
            self.fail(error)
        except Exception as error:
            self.fail_on_bug(error, f"record {record.name}")
        else:
            return True
        return False

    def _closed(self, record: RawRecord, size: int, reply: Reply, computed: float, delivered: bool) -> None:
        self._flows[record.topic].give_back(size)
        if not delivered:
            return
        info = reply.outcome.model
        model = f"{info.name}@{info.version}" if info else ""
        self._outcomes(record.topic, reply.outcome.status).inc()
        self._steps(model, "publish").observe(time.perf_counter() - computed)
        self._end_to_end(record.topic).observe(max(0.0, time.time() - record.timestamp_ms / 1_000))

    def _emitter(self, record: RawRecord, last: list[OutgoingRecord]) -> Callable[[TokenPiece], None]:
        """Publishes pieces as they come; the last one goes with the outcome, whose promise it shares."""

        def emit(piece: TokenPiece) -> None:
            outgoing = encode_piece(self._tokens, record.key, piece)
            if piece.finish_reason is not None:
                last.append(outgoing)
            else:
                self._pieces.publish([outgoing], self._check_piece)

        return emit

    def _check_piece(self, error: TransportError | None) -> None:
        if error is not None:
            self.fail(error)

    def _give_back(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._flows[place(message)[0]].give_back(record_size(message))

    async def _give_up(self, partitions: list[Partition], metadata: Any) -> Mapping[Partition, int]:
        # 1. Finish what is nearly done.
        await self._settled(partitions, GIVE_UP_GRACE_S)
        # 2. Publish nothing more of them: it could not be committed, and the next owner would repeat it.
        self._leaving.update(partitions)
        self._cancel(partitions)
        # 3. Take the offsets of what was delivered, or commit them.
        try:
            offsets = await self._outbox.give_up(partitions, metadata)
        finally:
            self._leaving.difference_update(partitions)
        self._drop(partitions)
        return offsets

    async def _settled(self, partitions: list[Partition] | None, timeout_s: float) -> None:
        """Wait until nothing of ``partitions`` (all when None) is unsettled, at most ``timeout_s``."""
        until = time.monotonic() + timeout_s
        while self._ledger.unsettled(partitions) and (left := until - time.monotonic()) > 0:
            names = list(self._working) if partitions is None else partitions
            if tasks := [task for name in names for task in self._working.get(name, ())]:
                await asyncio.wait(tasks, timeout=left)
            else:  # it lies on the agents' channel, or its delivery is not reported yet
                await asyncio.sleep(min(left, SETTLING_S))

    def _cancel(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            for task in self._working.pop(partition, set()):
                task.cancel()

    def _drop(self, partitions: Iterable[Partition]) -> None:
        self._cancel(partitions)
        self._lag.forget(partitions)
        self._outbox.drop(partitions)
        self._ledger.revoke(partitions)

    def _look(self, bounds: Mapping[Partition, tuple[int, int]], held: frozenset[Partition]) -> None:
        if stalled := self._lag.look(bounds, held):
            self.fail(
                EngineError(
                    f"{_words(stalled)}: no record was served for {self._lag.timeout_s:g} s while more arrived. "
                    "The worker ends, with them uncommitted, so that a new one can take over."
                )
            )

    def _work(self, partition: Partition) -> int:
        return self._runs() + self._server.waits if self._working.get(partition) else 0

    @Service.task  # type: ignore[untyped-decorator]
    async def _commit_regularly(self) -> None:
        while not self.should_stop:
            await self._outbox.due()
            try:
                if self.poller.is_alive():
                    await self._outbox.commit()
            except TransportError as error:
                LOG.warning("%s", error)  # the consumer ended meanwhile, and has said why


def _ended(working: set[asyncio.Task[bool]], flow: Flow, size: int, task: asyncio.Task[bool]) -> None:
    """A task may be cancelled before its first step, so its record is given back here and not in it."""
    working.discard(task)
    if task.cancelled() or not task.result():
        flow.give_back(size)


def _timed(reply: Reply, computed: float) -> Reply:
    """``reply`` with the time since the end of the run in its timings."""
    waited = (time.perf_counter() - computed) * 1_000
    timings = msgspec.structs.replace(reply.outcome.timings, publish_ms=round(waited, 3))
    return reply._replace(outcome=msgspec.structs.replace(reply.outcome, timings=timings))


def _words(partitions: Iterable[Partition]) -> str:
    return ", ".join(f"{topic}/{number}" for topic, number in partitions)
