from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, cast

import pytest

from agents.exactly_once import ExactlyOnceOutbox
from agents.ledger import Ledger, Partition
from agents.outbox import Place
from agents.publisher import OutgoingRecord
from agents.transactions import AbortedError, Transactions
from pipeline.errors import TransportError
from tests.waiting import until

PROMPTS = Partition("prompts", 0)


class Group:
    """A consumer whose membership never changes."""

    def group_metadata(self) -> Future[str]:
        future: Future[str] = Future()
        future.set_result("member")
        return future

    def commit(self, offsets: Mapping[Partition, int]) -> Future[Mapping[Partition, int]]:
        raise AssertionError("offsets go into the transaction")


class Kafka:
    """Takes transactions, when it is allowed to go on; fails those for which ``failures`` has something."""

    bound_s = 60.0

    def __init__(self) -> None:
        self.published: list[bytes | None] = []
        self.offsets: list[dict[Partition, int]] = []
        self.failures: list[Exception] = []
        self.asked, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def run(self, records: Sequence[OutgoingRecord], offsets: Mapping[Partition, int], metadata: Any) -> None:
        self.asked.set()
        self.go_on.wait()
        if self.failures:
            raise self.failures.pop()
        self.published += [record.value for record in records]
        self.offsets.append(dict(offsets))

    def close(self) -> None:
        pass


class Worker:
    """An outbox with its ledger, and what became of each record."""

    def __init__(self) -> None:
        self.kafka, self.ledger = Kafka(), Ledger()
        self.outbox = ExactlyOnceOutbox(
            self.ledger, cast("Transactions", self.kafka), Group(), interval_s=600, max_records=3
        )
        self.closed: dict[str, bool] = {}
        self.assign()

    def assign(self) -> None:
        self.ledger.assign([PROMPTS])

    def lose(self) -> None:
        self.outbox.drop([PROMPTS])
        self.ledger.revoke([PROMPTS])

    def fetch(self, *offsets: int) -> None:
        self.ledger.open(PROMPTS, offsets)

    def put(self, offset: int, value: str) -> None:
        place = Place(PROMPTS, self.ledger.epoch(PROMPTS) or 0, offset)
        record = OutgoingRecord("results", None, value.encode(), [])
        self.outbox.put(place, [record], lambda settled: self.closed.__setitem__(value, settled))


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    worker = Worker()
    yield worker
    worker.kafka.go_on.set()
    await worker.outbox.close(5)


async def test_an_outcome_waits_for_the_records_before_it(worker: Worker) -> None:
    worker.fetch(0, 1)
    worker.put(1, "second")
    await worker.outbox.commit()
    assert worker.kafka.published == []
    worker.put(0, "first")
    await worker.outbox.commit()
    assert sorted(map(str, worker.kafka.published)) == ["b'first'", "b'second'"]
    assert worker.kafka.offsets == [{PROMPTS: 2}]
    assert worker.closed == {"first": True, "second": True}
    assert worker.outbox.held == 0


async def test_what_was_aborted_goes_into_the_next_transaction(worker: Worker) -> None:
    worker.kafka.failures = [AbortedError("a rebalance")]
    worker.fetch(0)
    worker.put(0, "first")
    await worker.outbox.commit()
    assert (worker.kafka.published, worker.outbox.held) == ([], 1)
    await worker.outbox.commit()
    assert worker.kafka.published == [b"first"]


async def test_a_commit_that_nobody_waits_for_any_longer_is_not_made_twice(worker: Worker) -> None:
    worker.kafka.go_on.clear()
    worker.fetch(0)
    worker.put(0, "first")
    committing = asyncio.create_task(worker.outbox.commit())
    await until(worker.kafka.asked.is_set, "the transaction is under way")
    committing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await committing
    giving_up = asyncio.create_task(cast("Any", worker.outbox.give_up([PROMPTS], "member")))
    await asyncio.sleep(0.05)
    worker.kafka.go_on.set()
    await giving_up
    assert worker.kafka.published == [b"first"]
    assert worker.closed == {"first": True}


async def test_nothing_follows_a_transaction_whose_end_is_unknown(worker: Worker) -> None:
    worker.kafka.failures = [TransportError("a commit was not answered")]
    worker.fetch(0)
    worker.put(0, "first")
    await worker.outbox.commit()
    assert isinstance(worker.outbox.failed.result(), TransportError)
    await worker.outbox.commit()
    await worker.outbox.give_up([PROMPTS], "member")
    assert worker.kafka.published == []


async def test_an_outcome_of_a_new_assignment_is_not_taken_for_the_old_one_at_its_offset(worker: Worker) -> None:
    worker.kafka.go_on.clear()
    worker.fetch(0, 1)
    worker.put(0, "old")
    committing = asyncio.create_task(worker.outbox.commit())
    await until(worker.kafka.asked.is_set, "the transaction is under way")
    worker.lose()
    worker.assign()
    worker.fetch(0, 1)
    worker.put(0, "new")
    worker.kafka.go_on.set()
    await committing
    assert worker.closed == {"old": False}
    await worker.outbox.commit()
    assert worker.kafka.published == [b"old", b"new"]
    assert worker.closed == {"old": False, "new": True}


async def test_what_is_dropped_is_published_by_nobody(worker: Worker) -> None:
    worker.fetch(0)
    worker.put(0, "first")
    worker.lose()
    await worker.outbox.commit()
    assert worker.kafka.published == []
    assert worker.closed == {"first": False}


async def test_a_transaction_is_due_early_once_enough_records_have_come_since_the_last(worker: Worker) -> None:
    worker.fetch(0, 1, 2, 3)
    for offset in (1, 2, 3):  # the first record holds them back
        worker.put(offset, str(offset))
    async with asyncio.timeout(60):
        await worker.outbox.due()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.03):
            await worker.outbox.due()
