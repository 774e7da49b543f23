"""The delivery's part in a rebalance, without Kafka: the poll thread is a thread of the test."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import pytest

import agents.delivery
from agents.delivery import Delivery
from agents.ledger import Ledger, Partition
from agents.outbox import AtLeastOnceOutbox, note
from agents.records import record_size
from agents.transport.batches import Batch
from agents.transport.flow import Flow
from pipeline.errors import MillraceError, TransportError
from pipeline.metrics import Metrics
from tests.waiting import until

PARTITION = Partition("prompts", 0)


class FakeMessage:
    """An empty record of :data:`PARTITION`."""

    def topic(self) -> str:
        return PARTITION.topic

    def partition(self) -> int:
        return PARTITION.number

    def offset(self) -> int:
        return 0

    def timestamp(self) -> tuple[int, int]:
        return (1, 0)

    def key(self) -> None:
        return None

    value = headers = key


class WatchedOutbox:
    """Tells when the last offsets are asked for, and answers when the test lets it."""

    def __init__(self) -> None:
        self.failed: asyncio.Future[MillraceError] = asyncio.get_running_loop().create_future()
        self.asked, self.answer = asyncio.Event(), asyncio.Event()

    async def give_up(self, partitions: Sequence[Partition], metadata: Any) -> Mapping[Partition, int]:
        self.asked.set()
        await self.answer.wait()
        return {PARTITION: 0}

    def drop(self, partitions: Iterable[Partition]) -> None:
        pass


async def test_giving_up_a_partition_too_late_leaves_its_next_assignment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents.delivery, "GIVE_UP_TIMEOUT_S", 0.05)
    ledger, outbox = Ledger(), WatchedOutbox()
    delivery = delivery_of(ledger, outbox, Flow(max_records=10, max_bytes=10_000))
    await asyncio.to_thread(delivery.on_assigned, [PARTITION])
    assert await asyncio.to_thread(delivery.on_revoked, [PARTITION], None) == {}
    await asyncio.to_thread(delivery.on_assigned, [PARTITION])
    outbox.answer.set()
    await asyncio.sleep(0.05)
    assert PARTITION in ledger
    assert ledger.open(PARTITION, [7]) == ledger.epoch(PARTITION)


async def test_a_record_whose_partition_goes_before_its_first_step_is_given_back() -> None:
    ledger, flow = Ledger(), Flow(max_records=10, max_bytes=10_000)
    outbox = AtLeastOnceOutbox(ledger, None, None, interval_s=1)  # type: ignore[arg-type]
    delivery: Delivery = delivery_of(ledger, outbox, flow, route=lambda batch: delivery.admit(batch))
    message: Any = FakeMessage()
    ledger.assign([PARTITION])
    flow.take([record_size(message)])
    delivery.on_messages(PARTITION, (message,))
    delivery.on_lost([PARTITION])
    for _ in range(5):
        await asyncio.sleep(0)
    assert (flow.records, flow.bytes) == (0, 0)


async def test_what_still_lies_with_the_agents_when_the_last_offsets_are_taken_is_not_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agents.delivery, "GIVE_UP_GRACE_S", 0.02)
    ledger, outbox, flow = Ledger(), WatchedOutbox(), Flow(max_records=10, max_bytes=10_000)
    delivery = delivery_of(ledger, outbox, flow)
    message: Any = FakeMessage()
    ledger.assign([PARTITION])
    flow.take([record_size(message)])
    batch = Batch(PARTITION, ledger.open(PARTITION, [0]), (message,))
    revoked = asyncio.create_task(asyncio.to_thread(delivery.on_revoked, [PARTITION], None))
    await outbox.asked.wait()
    delivery.admit(batch)  # its outcome would be published past the offset that is committed
    assert flow.records == 0
    outbox.answer.set()
    assert await revoked == {PARTITION: 0}
    assert PARTITION not in ledger


async def test_with_nothing_in_work_a_partition_is_given_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Who waited for the grace would be too late for the last offsets.
    monkeypatch.setattr(agents.delivery, "GIVE_UP_GRACE_S", 600)
    monkeypatch.setattr(agents.delivery, "GIVE_UP_TIMEOUT_S", 30)
    ledger, outbox = Ledger(), WatchedOutbox()
    delivery = delivery_of(ledger, outbox, Flow(max_records=10, max_bytes=10_000))
    outbox.answer.set()
    ledger.assign([PARTITION])
    assert await asyncio.to_thread(delivery.on_revoked, [PARTITION], None) == {PARTITION: 0}


class HeldServer:
    """Answers when the test lets it."""

    waits = 0
    encoded = False

    def __init__(self) -> None:
        self.asked, self.answer = asyncio.Event(), asyncio.Event()

    async def serve(self, record: Any, emit: Any) -> Any:
        self.asked.set()
        await self.answer.wait()

    def encode(self, record: Any, reply: Any) -> list[Any]:
        self.encoded = True
        raise TransportError("published")


async def test_after_a_delivery_has_failed_nothing_is_published() -> None:
    ledger, flow, server = Ledger(), Flow(max_records=10, max_bytes=10_000), HeldServer()
    outbox = AtLeastOnceOutbox(ledger, None, None, interval_s=1)  # type: ignore[arg-type]
    delivery = delivery_of(ledger, outbox, flow, server=server)
    message: Any = FakeMessage()
    ledger.assign([PARTITION])
    flow.take([record_size(message)])
    delivery.admit(Batch(PARTITION, ledger.open(PARTITION, [0]), (message,)))
    await server.asked.wait()
    refused = TransportError("an earlier outcome was not delivered")
    note(outbox.failed, refused)
    server.answer.set()
    await until(lambda: not flow.records, "the record is given back")
    assert delivery.failed.result() is refused
    assert not server.encoded


class StuckPoller:
    """Takes commands and never works them off, as while its thread waits for Kafka."""

    alive = True

    def is_alive(self) -> bool:
        return self.alive

    def stop_fetching(self) -> Future[None]:
        return Future()


@pytest.mark.parametrize("alive", [True, False])
async def test_a_drain_does_not_wait_for_a_poll_thread_that_does_not_answer_and_tells_what_is_left(
    alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents.delivery, "STOP_FETCHING_TIMEOUT_S", 0.02)
    ledger, poller = Ledger(), StuckPoller()
    poller.alive = alive
    outbox = AtLeastOnceOutbox(ledger, None, None, interval_s=1)  # type: ignore[arg-type]
    delivery = delivery_of(ledger, outbox, Flow(max_records=10, max_bytes=10_000), poller=poller)
    ledger.assign([PARTITION])
    ledger.open(PARTITION, [0, 1, 2])
    assert await asyncio.wait_for(delivery.drain(600), 60) == 3


def delivery_of(ledger: Ledger, outbox: Any, flow: Flow, **parts: Any) -> Delivery:
    absent: dict[str, Any] = dict.fromkeys(("server", "pieces", "poller", "route"))
    return Delivery(
        ledger=ledger,
        outbox=outbox,
        flows={PARTITION.topic: flow},
        tokens="tokens",
        metrics=Metrics(),
        watchdog_timeout_s=60,
        runs=lambda: 0,
        **absent | parts,
    )
