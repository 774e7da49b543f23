"""The kinds of faults. A new kind is a coroutine with ``@fault(lane)``: its name counts in the report.

Faults of one lane follow each other; the lanes run side by side, so a worker is killed while a broker is away. Every
fault heals what it broke, also when it is cancelled.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, NamedTuple

from pipeline.settings import Settings
from tests.chaos.brokers import Brokers
from tests.chaos.disk import Disk
from tests.chaos.timeline import Timeline
from tests.chaos.workers import Worker, Workers

__all__ = ["FAULTS", "LANES", "Fault", "Lane", "Need", "World"]

Lane = Literal["workers", "engines", "brokers"]
Need = Literal["three brokers", "static members", "a small disk"]
MOVE_TIMEOUT_S = 15.0
SETTLE_S = 5.0
LANES: tuple[Lane, ...] = ("workers", "engines", "brokers")
PAUSES_S: dict[Lane, tuple[float, float]] = {"workers": (1, 4), "engines": (0.5, 3), "brokers": (2, 6)}


class World(NamedTuple):
    """What faults may touch."""

    settings: Settings
    workers: Workers
    brokers: Brokers
    disk: Disk
    timeline: Timeline


class Fault(NamedTuple):
    """A kind of fault; ``strike`` returns when the world is whole again. A run without its ``needs`` has none of it."""

    kind: str
    lane: Lane
    needs: frozenset[Need]
    strike: Callable[[World, random.Random], Awaitable[None]]


FAULTS: dict[str, Fault] = {}
Strike = Callable[[World, random.Random], Awaitable[None]]


def fault(lane: Lane, *needs: Need) -> Callable[[Strike], Strike]:
    """Register a kind of fault under its function's name."""

    def register(strike: Strike) -> Strike:
        FAULTS[strike.__name__] = Fault(strike.__name__, lane, frozenset(needs), strike)
        return strike

    return register


async def _steady(world: World, draw: random.Random) -> Worker:
    while not world.workers.steady:  # noqa: ASYNC110 - other processes
        await asyncio.sleep(0.1)
    return draw.choice(world.workers.steady)


async def _settled(world: World) -> Worker:
    """The oldest worker, once it has had time to be given partitions."""
    while True:
        oldest = min(world.workers.steady, key=lambda worker: worker.started_at, default=None)
        if oldest is not None and time.monotonic() - oldest.started_at >= SETTLE_S:
            return oldest
        await asyncio.sleep(0.1)


@fault("workers")
async def worker_kill(world: World, draw: random.Random) -> None:
    """SIGKILL of one worker, or of two at once."""
    for worker in draw.sample(world.workers.steady, min(draw.choice((1, 1, 2)), len(world.workers.steady))):
        world.timeline.note("worker_kill", worker.name)
        worker.signal(signal.SIGKILL)


@fault("workers")
async def worker_stop(world: World, draw: random.Random) -> None:
    """SIGTERM: the worker drains and leaves."""
    worker = await _steady(world, draw)
    world.timeline.note("worker_stop", worker.name)
    worker.signal(signal.SIGTERM)
    await asyncio.wait([asyncio.ensure_future(worker.ended.wait())], timeout=world.settings.worker.drain_timeout_s)


@fault("workers")
async def zombie(world: World, draw: random.Random) -> None:
    """SIGSTOP for longer than the session timeout, so that the group goes on without it; then it wakes."""
    worker = await _settled(world)
    seconds = world.settings.kafka.session_timeout_s + draw.uniform(1, 6)
    world.timeline.note("zombie", f"{worker.name} for {seconds:.1f} s")
    worker.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        worker.signal(signal.SIGCONT)
        world.timeline.note("zombie", f"{worker.name} wakes")


@fault("workers")
async def rebalance_storm(world: World, draw: random.Random) -> None:
    """A worker joins each second and another leaves, in whatever way, for a while. They are no static members."""
    extra: list[Worker] = []
    rounds = draw.randrange(5, 10)
    world.timeline.note("rebalance_storm", f"{rounds} rounds")
    try:
        for _ in range(rounds):
            extra.append(await world.workers.start(replaced=False))
            if len(extra) > 2:
                extra.pop(0).signal(draw.choice((signal.SIGTERM, signal.SIGINT, signal.SIGKILL)))
            await asyncio.sleep(1)
    finally:
        for worker in extra:
            worker.signal(signal.SIGTERM)


@fault("workers", "static members")
async def twin(world: World, draw: random.Random) -> None:
    """A second worker with the ``group.instance.id`` of one that still runs: the first is fenced by the brokers."""
    worker = await _steady(world, draw)
    second = await world.workers.start(replaced=False, member=worker.member)
    world.timeline.note("twin", f"{second.name} is {worker.member}, as {worker.name} is")
    await asyncio.wait([asyncio.ensure_future(worker.ended.wait())], timeout=world.settings.worker.drain_timeout_s)
    second.signal(signal.SIGTERM)


@fault("engines")
async def slow_session(world: World, draw: random.Random) -> None:
    """Every run of one worker takes long."""
    worker = await _steady(world, draw)
    run_ms, seconds = draw.uniform(5, 60), draw.uniform(2, 8)
    world.timeline.note("slow_session", f"{worker.name}: {run_ms:.0f} ms a run for {seconds:.1f} s")
    worker.tell(run_ms=run_ms)
    try:
        await asyncio.sleep(seconds)
    finally:
        worker.tell(run_ms=0.0)


@fault("engines")
async def failing_session(world: World, draw: random.Random) -> None:
    """Every run of one worker fails until it gives up, or for a while."""
    worker = await _steady(world, draw)
    world.timeline.note("failing_session", worker.name)
    worker.tell(failing=True)
    try:
        await asyncio.wait([asyncio.ensure_future(worker.ended.wait())], timeout=draw.uniform(1, 5))
    finally:
        worker.tell(failing=False)


@fault("engines")
async def session_hiccup(world: World, draw: random.Random) -> None:
    """The next few runs of one worker fail."""
    worker = await _steady(world, draw)
    runs = draw.randrange(1, 5)
    world.timeline.note("session_hiccup", f"{worker.name}: {runs} runs")
    worker.tell(fail_runs=runs)
    try:
        await asyncio.sleep(0.2)
    finally:
        worker.tell(fail_runs=0)


@fault("engines")
async def clock_jump(world: World, draw: random.Random) -> None:
    """The time of day of one worker, or of all, is wrong for a while; that is two jumps."""
    workers = world.workers.steady if draw.random() < 0.3 else [await _steady(world, draw)]
    offset_s = draw.choice((-1, 1)) * draw.choice((1.5, 30, 3_600, 86_400))
    world.timeline.note("clock_jump", f"{' '.join(worker.name for worker in workers)}: {offset_s:+g} s")
    for worker in workers:
        worker.tell(clock_offset_s=offset_s)
    try:
        await asyncio.sleep(draw.uniform(1, 6))
    finally:
        for worker in workers:
            worker.tell(clock_offset_s=0.0)


@fault("engines", "a small disk")
async def full_disk(world: World, draw: random.Random) -> None:
    """The disk of the result store is full for a while: nothing new is kept, and records are served all the same."""
    seconds = draw.uniform(2, 8)
    try:
        size = await asyncio.to_thread(world.disk.fill)
        world.timeline.note("full_disk", f"{size:,} bytes of ballast for {seconds:.1f} s")
        await asyncio.sleep(seconds)
    finally:
        world.disk.free()
        world.timeline.note("full_disk", "freed")


async def _away(world: World, kind: str, nodes: Sequence[int], number: signal.Signals, seconds: float) -> None:
    names = f"broker {' and '.join(map(str, nodes))}"
    world.timeline.note(kind, f"{names}: {number.name}, away for {seconds:.1f} s")
    try:
        await world.brokers.kill(nodes, number)
        await asyncio.sleep(seconds)
    finally:
        await world.brokers.restart()
        world.timeline.note(kind, f"{names} back")


@fault("brokers")
async def broker_kill(world: World, draw: random.Random) -> None:
    """SIGKILL of a broker, and a restart."""
    node = draw.choice(sorted(world.brokers.pids()))
    await _away(world, "broker_kill", [node], signal.SIGKILL, draw.uniform(0.2, 8))


@fault("brokers", "three brokers")
async def majority_kill(world: World, draw: random.Random) -> None:
    """SIGKILL of two brokers of three at once: nobody is served until they are back, and nothing may be lost."""
    await _away(
        world, "majority_kill", draw.sample(sorted(world.brokers.pids()), 2), signal.SIGKILL, draw.uniform(1, 8)
    )


@fault("brokers", "three brokers")
async def leader_kill(world: World, draw: random.Random) -> None:
    """SIGKILL of the broker that leads a partition of the inputs or the results; another leads it from then on."""
    leaders = await world.brokers.leaders(_topics(world))
    (topic, partition), node = draw.choice(sorted(leaders.items()))
    world.timeline.note("leader_kill", f"broker {node} leads {topic}/{partition}")
    await _away(world, "leader_kill", [node], signal.SIGKILL, draw.uniform(0.2, 4))


@fault("brokers", "three brokers")
async def leader_move(world: World, draw: random.Random) -> None:
    """A broker stops in an orderly way, which moves its leaders; when it is back they are moved back to it."""
    node = draw.choice(sorted(world.brokers.pids()))
    await _away(world, "leader_move", [node], signal.SIGTERM, 0.0)
    moved, deadline = 0, time.monotonic() + MOVE_TIMEOUT_S
    while not moved and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        moved = list((await world.brokers.leaders(_topics(world))).values()).count(node)
    world.timeline.note("leader_move", f"broker {node} leads {moved} partitions again")


def _topics(world: World) -> tuple[str, ...]:
    kafka = world.settings.kafka
    return kafka.prompts, kafka.images, kafka.prompt_results, kafka.image_results


@fault("brokers")
async def broker_freeze(world: World, draw: random.Random) -> None:
    """SIGSTOP of a broker, perhaps for longer than its own session (4 s); it wakes as a leader that is none."""
    node, seconds = draw.choice(sorted(world.brokers.pids())), draw.uniform(2, 9)
    world.timeline.note("broker_freeze", f"broker {node} for {seconds:.1f} s")
    await world.brokers.freeze(node, seconds)
    world.timeline.note("broker_freeze", f"broker {node} wakes")
