"""A worker joins four that are busy: the partitions that do not move go on, and nothing is lost or repeated.

The five workers run in this process, each with a consumer of its own. A join is measured up to six times and the best
counts, and what the same partitions paused beyond the ordinary in the seconds before it is allowed on top: a loaded
machine stops everything now and then, a rebalance that stops partitions does so every time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from agents.app import InferenceApp
from agents.ledger import Partition
from agents.topics import create_topics
from pipeline.settings import KafkaSettings, Settings, WorkerSettings
from tests.engines import timed_app
from tests.steady_flow import SteadyFlow

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PARTITIONS = 12
INTERVAL_S = 0.05
ORDINARY_PAUSE_S = 0.1
CONTROL_S = 3.0
ATTEMPTS = 6


class Join(NamedTuple):
    """What a join did: how many partitions moved, and the longest pause of those that did not, then and before it."""

    moved: int
    pause_s: float
    control_s: float


class Group:
    """Four workers and one that is ready to join them."""

    def __init__(self, settings: Settings, work_s: float) -> None:
        self.settings = settings
        self._work_s = work_s
        self.apps: list[InferenceApp] = []
        self.flow = SteadyFlow(settings.kafka, INTERVAL_S)

    async def start(self) -> None:
        for _ in range(4):
            await self._add()
        await self._settled()
        self.flow.start()

    async def measure_a_join(self) -> Join:
        """Have a fifth worker join, and leave again."""
        fifth, join = await self._add_unjoined()
        began = time.monotonic()
        await asyncio.sleep(CONTROL_S)
        before, joined = self._owners(), time.monotonic()
        join([])
        await self._settled()
        ended, after = time.monotonic(), self._owners()
        prompts = [place for place in before if place.topic == self.settings.kafka.prompts]
        stayed = [place.number for place in prompts if after[place] is before[place]]
        pause_s = max(self.flow.longest_pause_s(number, joined, ended) for number in stayed)
        control_s = max(self.flow.longest_pause_s(number, began, joined) for number in stayed)
        moved = sum(owner is not before[place] for place, owner in after.items())
        await fifth.stop()
        self.apps.remove(fifth)
        await self._settled()
        return Join(moved, pause_s, control_s)

    async def lost_or_repeated(self) -> list[tuple[int, int, int]]:
        await asyncio.to_thread(self.flow.finish, 60.0)
        return self.flow.not_once()

    async def stop(self) -> None:
        await asyncio.to_thread(self.flow.stop)
        for app in self.apps:
            await app.stop()

    async def _add(self) -> None:
        _, join = await self._add_unjoined()
        join([])

    async def _add_unjoined(self) -> tuple[InferenceApp, Any]:
        """A worker with all of its start behind it but joining the group, and what makes it join."""
        app = timed_app(self.settings, self._work_s)
        join = app.start_fetching
        app.start_fetching = lambda topics: None  # type: ignore[method-assign]
        self.apps.append(app)
        await app.start()
        return app, join

    def _owners(self) -> dict[Partition, InferenceApp]:
        return {place: app for app in self.apps for place in app.delivery.poller.assignment}

    async def _settled(self) -> None:
        """Wait until every worker has partitions, every partition a worker, and that for a second."""
        last, since, deadline = None, time.monotonic(), time.monotonic() + 60
        while time.monotonic() < deadline:
            held = [app.delivery.poller.assignment for app in self.apps]
            whole = all(held) and sum(map(len, held)) == len(frozenset().union(*held)) == 2 * PARTITIONS
            if not whole or held != last:
                last, since = held, time.monotonic()
            elif time.monotonic() - since > 1.0:
                return
            await asyncio.sleep(0.05)
        pytest.fail(f"the group did not settle within 60 s: {held}")


@pytest.fixture
async def group(request: pytest.FixtureRequest, kafka: str, topic_prefix: str) -> AsyncIterator[Group]:
    protocol, delivery, work_s = request.param
    names = KafkaSettings(
        bootstrap_servers=kafka,
        topic_prefix=topic_prefix,
        group_id=topic_prefix,
        partitions=PARTITIONS,
        session_timeout_s=6,
        group_protocol=protocol,
    )
    settings = Settings(kafka=names, worker=WorkerSettings(delivery=delivery, drain_timeout_s=5))
    await asyncio.to_thread(create_topics, settings)
    made = Group(settings, work_s)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


async def best_join(group: Group, limit_s: float) -> list[Join]:
    """Joins until one keeps to the limit; at most six."""
    joins: list[Join] = []
    while len(joins) < ATTEMPTS and not any(keeps_to(limit_s, join) for join in joins):
        joins.append(await group.measure_a_join())
    return joins


def keeps_to(limit_s: float, join: Join) -> bool:
    return join.pause_s < limit_s + max(0.0, join.control_s - ORDINARY_PAUSE_S)


@pytest.mark.parametrize(
    "group", [("classic", "at_least_once", 0.0), ("consumer", "at_least_once", 0.0)], indirect=True, ids=str
)
async def test_a_join_with_nothing_to_drain_stops_no_other_partition_for_200_ms(group: Group) -> None:
    joins = await best_join(group, 0.2)
    assert all(join.moved for join in joins)
    assert any(keeps_to(0.2, join) for join in joins), joins
    assert await group.lost_or_repeated() == []


@pytest.mark.parametrize(
    "group",
    [("classic", "at_least_once", 0.2), ("consumer", "at_least_once", 0.2), ("classic", "at_least_once", 2.0)],
    indirect=True,
    ids=str,
)
async def test_a_join_with_records_in_work_stops_no_other_partition_for_1500_ms(group: Group) -> None:
    joins = await best_join(group, 1.5)
    assert all(join.moved for join in joins)
    assert any(keeps_to(1.5, join) for join in joins), joins
    assert await group.lost_or_repeated() == []


@pytest.mark.parametrize(
    "group", [("classic", "exactly_once", 0.05), ("consumer", "exactly_once", 0.05)], indirect=True, ids=str
)
async def test_a_join_repeats_and_loses_nothing_exactly_once(group: Group) -> None:
    join = await group.measure_a_join()
    assert join.moved
    assert await group.lost_or_repeated() == []
