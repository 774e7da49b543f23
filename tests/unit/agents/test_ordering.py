from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest

from agents.ordering import KeyOrder
from tests.waiting import until


class Line:
    """Some that work, each until it is told to end, and then leave in the order of their keys."""

    def __init__(self) -> None:
        self.order, self.left = KeyOrder(), list[str]()
        self._ends: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def run(self, name: str, key: str | None, fails: bool = False) -> None:
        async with self.order.turn(key):
            await self._ends[name].wait()
            if fails:
                self.left.append(name)
                raise ValueError(name)
        self.left.append(name)

    async def end(self, name: str, *, then: list[str]) -> None:
        """End the work of ``name``; these have left after that, and no others even if they are given time."""
        self._ends[name].set()
        await until(lambda: self.left == then, f"{then} have left")
        await asyncio.sleep(0.01)
        assert self.left == then


async def test_the_fast_wait_for_the_slow_of_their_key_only() -> None:
    line = Line()
    async with asyncio.TaskGroup() as group:
        for name, key in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("free", None)):
            group.create_task(line.run(name, key))
        await line.end("a3", then=[])
        await line.end("free", then=["free"])
        await line.end("a2", then=["free"])
        await line.end("b1", then=["free", "b1"])
        await line.end("a1", then=["free", "b1", "a1", "a2", "a3"])


async def test_a_failure_lets_the_next_one_leave() -> None:
    line = Line()
    bad, good = (asyncio.create_task(line.run(name, "a", name == "bad")) for name in ("bad", "good"))
    await line.end("good", then=[])
    await line.end("bad", then=["bad", "good"])
    assert isinstance(bad.exception(), ValueError)
    await good


async def test_a_cancelled_one_lets_the_next_one_leave() -> None:
    line = Line()
    first = asyncio.create_task(line.run("first", "a"))
    await asyncio.sleep(0)
    second = asyncio.create_task(line.run("second", "a"))
    await line.end("second", then=[])
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await asyncio.wait_for(second, 60)
    assert line.left == ["second"]
