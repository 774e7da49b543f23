"""The delivery's part in a rebalance, without Kafka: the poll thread is a thread of the test."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

import agents.delivery
from agents.delivery import Delivery
from agents.ledger import Ledger, Partition
from agents.outbox import AtLeastOnceOutbox
from agents.records import record_size
from agents.transport.flow import Flow
from pipeline.metrics import Metrics

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


class SlowOutbox:
    """Cannot commit until the test lets it."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()

    async def give_up(self, partitions: Sequence[Partition], metadata: Any) -> Mapping[Partition, int]:
        await self.ready.wait()
        return {}

    def drop(self, partitions: Iterable[Partition]) -> None:
        pass


async def test_giving_up_a_partition_too_late_leaves_its_next_assignment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents.delivery, "GIVE_UP_TIMEOUT_S", 0.05)
    ledger = Ledger()
    outbox: Any = SlowOutbox()
    absent: Any = dict.fromkeys(("server", "pieces", "poller", "route"))
    delivery = Delivery(
        ledger=ledger,
        outbox=outbox,
        flows={},
        tokens="tokens",
        metrics=Metrics(),
        watchdog_timeout_s=60,
        runs=lambda: 0,
        **absent,
    )
    await asyncio.to_thread(delivery.on_assigned, [PARTITION])
    assert await asyncio.to_thread(delivery.on_revoked, [PARTITION], None) == {}
    await asyncio.to_thread(delivery.on_assigned, [PARTITION])
    outbox.ready.set()
    await asyncio.sleep(0.05)
    assert PARTITION in ledger
    assert ledger.open(PARTITION, [7]) == ledger.epoch(PARTITION)


async def test_a_record_whose_partition_goes_before_its_first_step_is_given_back() -> None:
    ledger = Ledger()
    flow = Flow(max_records=10, max_bytes=10_000)
    absent: Any = dict.fromkeys(("server", "pieces", "poller"))
    delivery = Delivery(
        ledger=ledger,
        outbox=AtLeastOnceOutbox(ledger, None, None, interval_s=1),  # type: ignore[arg-type]
        flows={"prompts": flow},
        tokens="tokens",
        metrics=Metrics(),
        route=lambda batch: delivery.admit(batch),
        watchdog_timeout_s=60,
        runs=lambda: 0,
        **absent,
    )
    message: Any = FakeMessage()
    ledger.assign([PARTITION])
    flow.take([record_size(message)])
    delivery.on_messages(PARTITION, (message,))
    delivery.on_lost([PARTITION])
    for _ in range(5):
        await asyncio.sleep(0)
    assert (flow.records, flow.bytes) == (0, 0)
