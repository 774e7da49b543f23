from __future__ import annotations

import asyncio

import pytest

from agents.ordering import KeyOrder


async def run(
    order: KeyOrder, left: list[str], name: str, key: str | None, seconds: float, fails: bool = False
) -> None:
    async with order.turn(key):
        await asyncio.sleep(seconds)
        if fails:
            left.append(name)
            raise ValueError(name)
    left.append(name)


async def test_the_fast_wait_for_the_slow_of_their_key_only() -> None:
    order, left = KeyOrder(), list[str]()
    await asyncio.gather(
        run(order, left, "a1", "a", 0.06),
        run(order, left, "a2", "a", 0.02),
        run(order, left, "a3", "a", 0.0),
        run(order, left, "b1", "b", 0.03),
        run(order, left, "free", None, 0.01),
    )
    assert left == ["free", "b1", "a1", "a2", "a3"]


async def test_a_failure_lets_the_next_one_leave() -> None:
    order, left = KeyOrder(), list[str]()
    results = await asyncio.gather(
        run(order, left, "bad", "a", 0.01, fails=True), run(order, left, "good", "a", 0.0), return_exceptions=True
    )
    assert isinstance(results[0], ValueError)
    assert left == ["bad", "good"]


async def test_a_cancelled_one_lets_the_next_one_leave() -> None:
    order, left = KeyOrder(), list[str]()
    first = asyncio.create_task(run(order, left, "first", "a", 10))
    await asyncio.sleep(0)
    second = asyncio.create_task(run(order, left, "second", "a", 0))
    await asyncio.sleep(0.01)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await asyncio.wait_for(second, 1)
    assert left == ["second"]
