"""The delivery's part in a rebalance, without Kafka: the poll thread is a thread of the test."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

import agents.delivery
from agents.delivery import Delivery
from agents.ledger import Ledger, Partition
from pipeline.metrics import Metrics

PARTITION = Partition("prompts", 0)


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
