"""Delivery: every fetched record is opened in the ledger, served, its outcome published, and only then committed.

The poll thread tells of records and rebalances (it is a :class:`~agents.transport.poller.Listener`); everything else
happens on the event loop. The steps of one record are numbered in :meth:`Delivery._serve`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from mode import Service

from agents.outbox import Place, note
from agents.records import offset_of, place, record_size
from agents.serving import encode_piece
from agents.transport.batches import Batch
from agents.watchdog import Progress, Watchdog
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
GIVE_UP_TIMEOUT_S = 5.0


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
        metrics: counts records, outcomes, lag.
        route: hands a batch to the agents.
        watchdog_timeout_s: how long a partition may stand still while its log grows.
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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.failed: asyncio.Future[MillraceError] = asyncio.get_running_loop().create_future()
        self.poller = poller
        self._server = server
        self._outbox = outbox
        self._pieces = pieces
        self._flows = flows
        self._tokens = tokens
        self._metrics = metrics
        self._route = route
        self._watchdog = Watchdog(watchdog_timeout_s)
        self._ledger = ledger
        self._working: defaultdict[Partition, set[asyncio.Task[None]]] = defaultdict(set)
        self._last_of_key: dict[tuple[Partition, bytes], asyncio.Future[None]] = {}
        self._event_loop = asyncio.get_running_loop()

    # The poll thread.

    def on_assigned(self, partitions: list[Partition]) -> None:
        """Start an epoch for ``partitions``."""
        self._event_loop.call_soon_threadsafe(self._ledger.assign, partitions)

    def on_messages(self, partition: Partition, messages: tuple[Message, ...]) -> None:
        """Open entries and route the batch."""
        self._event_loop.call_soon_threadsafe(self._open, partition, messages)

    def on_revoked(self, partitions: list[Partition], metadata: Any) -> Mapping[Partition, int]:
        """The offsets to commit before ``partitions`` go, after a short wait for what is nearly done."""
        future = asyncio.run_coroutine_threadsafe(self._give_up(partitions, metadata), self._event_loop)
        try:
            return future.result(GIVE_UP_TIMEOUT_S)
        except TimeoutError:
            LOG.warning("gave up %s without a last commit: the event loop did not answer", _words(partitions))
            return {}

    def on_lost(self, partitions: list[Partition]) -> None:
        """Drop what is under way for ``partitions``: their next owner repeats it."""
        LOG.warning("lost %s to another worker", _words(partitions))
        self._event_loop.call_soon_threadsafe(self._drop, partitions)

    def on_position(self, end_offsets: Mapping[Partition, int]) -> None:
        """Report lag."""
        self._event_loop.call_soon_threadsafe(self._report_lag, dict(end_offsets))

    def on_failed(self, error: TransportError) -> None:
        """End the worker."""
        self._event_loop.call_soon_threadsafe(self.fail, error)

    # The event loop.

    def fail(self, error: MillraceError) -> None:
        """Note that the worker cannot go on; the first error is kept."""
        note(self.failed, error)

    def admit(self, batch: Batch) -> None:
        """Start serving the records of ``batch``. Called by the agents."""
        if self._ledger.epoch(batch.partition) != batch.epoch:
            self._give_back(batch.messages)  # the partition was given up while the batch lay on the channel
            return
        for record, message in zip(batch.records(), batch.messages, strict=True):
            turn = self._take_turn(batch.partition, record.key)
            job = self._serve(batch, record, record_size(message), *turn)
            task = asyncio.create_task(job)
            self._working[batch.partition].add(task)
            task.add_done_callback(self._working[batch.partition].discard)

    async def drain(self, timeout_s: float) -> int:
        """Fetch no more, finish what is held within ``timeout_s``, commit. Returns how many records are given back."""
        if not self.poller.is_alive():
            return 0
        await asyncio.wrap_future(self.poller.stop_fetching())
        tasks = [task for working in self._working.values() for task in working]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        await self._outbox.flush()
        await self._outbox.commit()
        return self._ledger.unsettled()

    async def leave(self) -> None:
        """Leave the consumer group; what is unsettled is served by its next owner."""
        await asyncio.to_thread(self.poller.stop)

    def _open(self, partition: Partition, messages: tuple[Message, ...]) -> None:
        if partition not in self._ledger:
            self._give_back(messages)
            return
        epoch = self._ledger.open(partition, [offset_of(message) for message in messages])
        self._metrics.records.labels(partition.topic).inc(len(messages))
        self._route(Batch(partition, epoch, messages))

    async def _serve(
        self,
        batch: Batch,
        record: RawRecord,
        size: int,
        previous: asyncio.Future[None] | None,
        done: asyncio.Future[None],
    ) -> None:
        held = True
        try:
            # 1. Decode and compute.
            reply = await self._server.serve(record, self._emitter(record))
            computed = time.perf_counter()
            # 2. Wait for earlier outcomes of the same key.
            if previous is not None:
                await asyncio.wait([previous])
            # 3. Publish, verify the delivery, settle, commit: the outbox, in the order of its delivery mode.
            place = Place(batch.partition, batch.epoch, record.offset)
            records = self._server.encode(record, _timed(reply, computed))
            self._outbox.put(place, records, partial(self._closed, record, size, reply, computed))
            held = False
        except MillraceError as error:
            self.fail(error)
        except Exception as error:
            LOG.exception("record %s/%d@%d", record.topic, record.partition, record.offset)
            self.fail(EngineError(f"an unexpected failure, with its record uncommitted: {error!r}. This is a bug."))
        finally:
            done.set_result(None)
            self._end_turn(batch.partition, record.key, done)
            if held:
                self._flows[record.topic].give_back(size)

    def _closed(self, record: RawRecord, size: int, reply: Reply, computed: float, delivered: bool) -> None:
        self._flows[record.topic].give_back(size)
        if not delivered:
            return
        model = reply.outcome.model.name if reply.outcome.model else ""
        self._metrics.outcomes.labels(record.topic, reply.outcome.status).inc()
        self._metrics.steps.labels(model, "publish").observe(time.perf_counter() - computed)
        self._metrics.end_to_end.labels(record.topic).observe(max(0.0, time.time() - record.timestamp_ms / 1_000))

    def _take_turn(
        self, partition: Partition, key: bytes | None
    ) -> tuple[asyncio.Future[None] | None, asyncio.Future[None]]:
        """The future of the outcome before this one of the same key, and the one that later outcomes wait for."""
        done: asyncio.Future[None] = self._event_loop.create_future()
        if key is None:
            return None, done
        previous = self._last_of_key.get((partition, key))
        self._last_of_key[partition, key] = done
        return previous, done

    def _end_turn(self, partition: Partition, key: bytes | None, done: asyncio.Future[None]) -> None:
        if key is not None and self._last_of_key.get((partition, key)) is done:
            del self._last_of_key[partition, key]

    def _emitter(self, record: RawRecord) -> Callable[[TokenPiece], None]:
        def emit(piece: TokenPiece) -> None:
            self._event_loop.call_soon_threadsafe(self._publish_piece, encode_piece(self._tokens, record.key, piece))

        return emit

    def _publish_piece(self, piece: OutgoingRecord) -> None:
        self._pieces.publish([piece]).add_done_callback(self._check_piece)

    def _check_piece(self, delivered: asyncio.Future[None]) -> None:
        if not delivered.cancelled() and isinstance(error := delivered.exception(), MillraceError):
            self.fail(error)

    def _give_back(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._flows[place(message)[0]].give_back(record_size(message))

    async def _give_up(self, partitions: list[Partition], metadata: Any) -> Mapping[Partition, int]:
        tasks = [task for partition in partitions for task in self._working[partition]]
        if tasks:
            await asyncio.wait(tasks, timeout=GIVE_UP_GRACE_S)
        offsets = await self._outbox.give_up(partitions, metadata)
        self._drop(partitions)
        return offsets

    def _drop(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            for task in self._working.pop(partition, set()):
                task.cancel()
            with suppress(KeyError):  # a partition that never had a position has no lag to forget
                self._metrics.lag.remove(*partition)
        self._outbox.drop(partitions)
        self._ledger.revoke(partitions)

    def _report_lag(self, end_offsets: Mapping[Partition, int]) -> None:
        committable = self._ledger.committable()
        behind: dict[Partition, Progress] = {}
        for partition, end in end_offsets.items():
            if (epoch := self._ledger.epoch(partition)) is None:
                continue
            lag = end - committable.get(partition, 0)
            if partition in committable:
                self._metrics.lag.labels(*partition).set(lag)
            if lag > 0:
                behind[partition] = Progress(epoch, self._ledger.settled(partition), end)
        if stalled := self._watchdog.observe(time.monotonic(), behind):
            self.fail(
                EngineError(
                    f"{_words(stalled)}: no record was served for {self._watchdog.timeout_s:g} s while more arrived. "
                    "The worker ends, with them uncommitted, so that a new one can take over."
                )
            )

    @Service.task  # type: ignore[untyped-decorator]
    async def _commit_regularly(self) -> None:
        while not self.should_stop:
            await self._outbox.due()
            if self.poller.is_alive():
                await self._outbox.commit()


def _timed(reply: Reply, computed: float) -> Reply:
    """``reply`` with the time since the end of the run in its timings."""
    waited = (time.perf_counter() - computed) * 1_000
    timings = msgspec.structs.replace(reply.outcome.timings, publish_ms=round(waited, 3))
    return reply._replace(outcome=msgspec.structs.replace(reply.outcome, timings=timings))


def _words(partitions: Iterable[Partition]) -> str:
    return ", ".join(f"{topic}/{number}" for topic, number in partitions)
