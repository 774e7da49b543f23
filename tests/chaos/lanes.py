"""The order of faults: drawn from the seed, every kind of a lane once before any comes again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection, Iterator

from tests.chaos.faults import FAULTS, LANES, PAUSES_S, Fault, Lane, World

__all__ = ["deal", "strike_all"]


def deal(lane: Lane, kinds: Collection[str], draw: random.Random) -> Iterator[tuple[float, Fault, int]]:
    """Endlessly: a pause in seconds, the fault after it, the seed of what the fault itself draws.

    All three depend on ``draw`` alone, not on what the faults meet.
    """
    faults = [kind for kind in FAULTS.values() if kind.lane == lane and kind.kind in kinds]
    while faults:
        draw.shuffle(faults)
        for kind in faults:
            yield draw.uniform(*PAUSES_S[lane]), kind, draw.getrandbits(64)


async def strike_all(world: World, kinds: Collection[str], seconds: float, seed: str) -> None:
    """Run every lane for ``seconds``; a fault that has begun is seen to its end."""
    async with asyncio.TaskGroup() as group:
        for lane in LANES:
            group.create_task(_strike(world, deal(lane, kinds, random.Random(f"{seed} {lane}")), seconds))


async def _strike(world: World, faults: Iterator[tuple[float, Fault, int]], seconds: float) -> None:
    end = time.monotonic() + seconds
    for pause_s, kind, seed in faults:
        if time.monotonic() + pause_s >= end:
            await asyncio.sleep(max(0.0, end - time.monotonic()))
            return
        await asyncio.sleep(pause_s)
        await kind.strike(world, random.Random(seed))
        world.timeline.faults[kind.kind] += 1
