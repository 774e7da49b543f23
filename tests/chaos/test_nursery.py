from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.chaos.plan import Plan, chaos_settings
from tests.chaos.timeline import Timeline
from tests.chaos.workers import Workers
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.chaos
SETTINGS = chaos_settings(Plan(seconds=1, seed=1), "at_least_once", "127.0.0.1:1")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_workers_end_with_their_owner_even_stopped_ones(tmp_path: Path) -> None:
    workers = Workers(2, SETTINGS, tmp_path, Timeline(tmp_path / "timeline"))
    await workers.open()
    pids = [worker.pid for worker in workers.alive]
    assert len(pids) == 2
    workers.alive[0].signal(signal.SIGSTOP)
    await workers.close()
    assert not any(map(is_alive, pids))


async def test_a_worker_that_ends_is_replaced_by_the_same_static_member_and_its_end_is_told(tmp_path: Path) -> None:
    workers = Workers(1, SETTINGS, tmp_path, Timeline(tmp_path / "timeline"), static=True)
    await workers.open()
    try:
        (first,) = workers.alive
        first.signal(signal.SIGKILL)
        await asyncio.wait_for(first.ended.wait(), PATIENCE_S)
        await until(lambda: workers.alive, "the worker that ended is replaced")
        assert [(worker.name, worker.member) for worker in workers.steady] == [("w2", "member-1")]
        assert first.status == -signal.SIGKILL
        assert workers.exits == {-signal.SIGKILL: 1}
    finally:
        await workers.close()
