"""At least once, without Kafka: what is delivered settles, what is not is never committed past."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import pytest

import agents.outbox
from agents.ledger import Ledger, Partition
from agents.outbox import AtLeastOnceOutbox, Place
from agents.publisher import OutgoingRecord
from pipeline.errors import EngineError, TransportError

PARTITION = Partition("prompts", 0)
RECORD = OutgoingRecord("results", None, b"", [])


class HeldPublisher:
    """Keeps what is published until the test tells of its delivery."""

    def __init__(self) -> None:
        self.told: list[Callable[[TransportError | None], None]] = []

    def publish(self, records: Sequence[OutgoingRecord], delivered: Callable[[TransportError | None], None]) -> None:
        self.told.append(delivered)


class Commits:
    def commit(self, offsets: Mapping[Partition, int]) -> Future[Mapping[Partition, int]]:
        raise AssertionError("nothing to commit")

    group_metadata: Any = None


class Worker:
    """An outbox over three fetched records, and what it told of each."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.ledger.assign([PARTITION])
        self.epoch = self.ledger.open(PARTITION, [0, 1, 2])
        self.publisher = HeldPublisher()
        self.outbox = AtLeastOnceOutbox(self.ledger, self.publisher, Commits(), interval_s=1)  # type: ignore[arg-type]
        self.closed: list[tuple[int, bool]] = []

    def put(self, *offsets: int) -> None:
        for offset in offsets:
            place = Place(PARTITION, self.epoch, offset)
            self.outbox.put(place, [RECORD], lambda settled, offset=offset: self.closed.append((offset, settled)))  # type: ignore[misc]


async def test_only_the_unbroken_prefix_of_what_is_delivered_may_be_committed() -> None:
    worker = Worker()
    worker.put(0, 1, 2)
    worker.publisher.told[2](None)
    assert worker.ledger.commits() == {}
    worker.publisher.told[0](None)
    assert worker.ledger.commits() == {PARTITION: 1}
    assert worker.closed == [(2, True), (0, True)]
    assert worker.ledger.unsettled() + worker.outbox.held == 1  # what a stop gives back


async def test_what_cannot_be_delivered_fails_the_outbox_and_holds_the_commit_back() -> None:
    worker = Worker()
    worker.put(0, 1)
    worker.publisher.told[0](TransportError("refused"))
    worker.publisher.told[1](None)
    assert worker.ledger.commits() == {}
    assert worker.closed == [(0, False), (1, True)]
    assert str(worker.outbox.failed.result()) == "refused"


async def test_a_delivery_under_an_older_assignment_settles_nothing() -> None:
    worker = Worker()
    worker.put(0)
    worker.ledger.assign([PARTITION])
    worker.publisher.told[0](None)
    assert worker.closed == [(0, False)]
    assert not worker.outbox.failed.done()


async def test_a_record_that_is_delivered_twice_is_told_as_a_bug() -> None:
    worker = Worker()
    worker.put(0, 0)
    worker.publisher.told[0](None)
    worker.publisher.told[1](None)
    assert isinstance(worker.outbox.failed.result(), EngineError)


async def test_giving_up_waits_for_what_is_nearly_delivered_and_commits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents.outbox, "FLUSH_TIMEOUT_S", 60.0)
    worker = Worker()
    worker.put(0, 1)
    giving_up = asyncio.ensure_future(worker.outbox.give_up([PARTITION], None))
    await asyncio.sleep(0.01)
    assert not giving_up.done()
    worker.publisher.told[0](None)
    worker.publisher.told[1](None)
    assert await asyncio.wait_for(giving_up, 30) == {PARTITION: 2}


async def test_giving_up_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents.outbox, "FLUSH_TIMEOUT_S", 0.02)
    worker = Worker()
    worker.put(0, 1)
    worker.publisher.told[0](None)
    assert await asyncio.wait_for(worker.outbox.give_up([PARTITION], None), 30) == {PARTITION: 1}
