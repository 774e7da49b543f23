"""What is published of a partition that is being given up, without Kafka."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

import agents.delivery
from agents.delivery import Delivery
from agents.ledger import Ledger, Partition
from agents.records import record_size
from agents.transport.batches import Batch
from agents.transport.flow import Flow
from pipeline.errors import MillraceError
from pipeline.metrics import Metrics

LEAVING = Partition("prompts", 0)


class Record:
    """An empty record of :data:`LEAVING`."""

    def topic(self) -> str:
        return LEAVING.topic

    def partition(self) -> int:
        return LEAVING.number

    def offset(self) -> int:
        return 0

    def key(self) -> None:
        return None

    value = key


class WatchedOutbox:
    """Tells when the last offsets are asked for, and answers when the test lets it."""

    def __init__(self) -> None:
        self.failed: asyncio.Future[MillraceError] = asyncio.get_running_loop().create_future()
        self.asked, self.answer = asyncio.Event(), asyncio.Event()

    async def give_up(self, partitions: Sequence[Partition], metadata: Any) -> Mapping[Partition, int]:
        self.asked.set()
        await self.answer.wait()
        return {LEAVING: 0}

    def drop(self, partitions: Iterable[Partition]) -> None:
        pass


def delivery_with(ledger: Ledger, outbox: Any, flow: Flow) -> Delivery:
    absent: Any = dict.fromkeys(("server", "pieces", "poller", "route"))
    return Delivery(
        ledger=ledger,
        outbox=outbox,
        flows={LEAVING.topic: flow},
        tokens="tokens",
        metrics=Metrics(),
        watchdog_timeout_s=60,
        runs=lambda: 0,
        **absent,
    )


async def test_what_still_lies_with_the_agents_when_the_last_offsets_are_taken_is_not_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agents.delivery, "GIVE_UP_GRACE_S", 0.02)
    ledger, outbox, flow = Ledger(), WatchedOutbox(), Flow(max_records=10, max_bytes=10_000)
    delivery = delivery_with(ledger, outbox, flow)
    message: Any = Record()
    ledger.assign([LEAVING])
    flow.take([record_size(message)])
    batch = Batch(LEAVING, ledger.open(LEAVING, [0]), (message,))
    revoked = asyncio.create_task(asyncio.to_thread(delivery.on_revoked, [LEAVING], None))
    await outbox.asked.wait()
    delivery.admit(batch)  # its outcome would be published past the offset that is committed
    assert flow.records == 0
    outbox.answer.set()
    assert await revoked == {LEAVING: 0}
    assert LEAVING not in ledger


async def test_with_nothing_in_work_a_partition_is_given_up_at_once() -> None:
    ledger, outbox = Ledger(), WatchedOutbox()
    delivery = delivery_with(ledger, outbox, Flow(max_records=10, max_bytes=10_000))
    outbox.answer.set()
    ledger.assign([LEAVING])
    began = time.monotonic()
    await asyncio.to_thread(delivery.on_revoked, [LEAVING], None)
    assert time.monotonic() - began < agents.delivery.GIVE_UP_GRACE_S / 2
