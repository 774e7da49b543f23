"""One run: a cluster, and under each delivery mode a steady producer, faults, and the verdict."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from msgspec import Struct
from msgspec.structs import replace

from agents.topics import create_topics
from pipeline.settings import Settings
from tests.chaos.brokers import Brokers
from tests.chaos.counters import add_up, count_lines
from tests.chaos.disk import Disk
from tests.chaos.faults import World
from tests.chaos.lanes import strike_all
from tests.chaos.plan import Plan, chaos_settings
from tests.chaos.records import is_poison
from tests.chaos.sender import Sender
from tests.chaos.timeline import Timeline
from tests.chaos.topics import Seen, committed_offsets, end_offsets, read_topic
from tests.chaos.verdict import Verdict, judge
from tests.chaos.workers import Workers

__all__ = ["Ending", "ModeRun", "run"]

STALL_TIMEOUT_S = 60.0
POLL_S = 0.5
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)


class Ending(Struct, frozen=True, kw_only=True):
    """How a mode's run ended once every fault was over.

    ``stuck`` is empty, or says where the workers stood still; ``unclean`` tells of workers that did not end well on
    SIGTERM; ``caught_up_s`` is how long the backlog took.
    """

    stuck: str
    unclean: list[str]
    caught_up_s: float


class ModeRun(Struct, frozen=True, kw_only=True):
    """What came of one mode.

    ``faults`` counts them by kind, ``skipped`` says why there were none of other kinds; ``exits`` counts the workers by
    their exit codes (minus the signal), ``lines`` what stands in their logs, ``counters`` what they counted themselves.
    ``markers_skipped`` are the brokers' own faults, after which exactly_once stands still (see :class:`Brokers`).
    """

    mode: str
    verdict: Verdict
    faults: dict[str, int]
    skipped: dict[str, str]
    exits: dict[int, int]
    lines: dict[str, int]
    markers_skipped: int
    counters: dict[str, float]
    timeline: Timeline
    ending: Ending

    @property
    def crashes(self) -> int:
        """Workers that the operating system ended for what they did."""
        return sum(self.exits.get(-number, 0) for number in CRASHES)

    @property
    def kept(self) -> bool:
        """Whether every promise was kept."""
        return not (self.verdict.problems or self.ending.stuck or self.ending.unclean or self.crashes)


def run(plan: Plan, folder: Path, screen: TextIO | None = None) -> list[ModeRun]:
    """Run the plan; everything it started has ended when this returns or raises.

    Args:
        plan: what to run.
        folder: where the brokers' data, the workers' logs and the timelines go.
        screen: hears of every event.
    """
    brokers, disk = Brokers(folder / "brokers", plan.brokers), Disk(folder / "disk")
    with ExitStack() as stack:
        if plan.store:
            stack.callback(disk.close)
            disk.open()
        stack.callback(brokers.stop)
        brokers.start()
        runs = [asyncio.run(_run_mode(plan, mode, folder, brokers, disk, screen)) for mode in plan.modes]
        if not all(found.kept for found in runs):
            brokers.dump_offsets()
        return runs


async def _run_mode(
    plan: Plan, mode: str, folder: Path, brokers: Brokers, disk: Disk, screen: TextIO | None
) -> ModeRun:
    logs = folder / mode
    logs.mkdir(parents=True)
    timeline = Timeline(logs / "timeline.jsonl", screen)
    timeline.note("mode", mode)
    settings = chaos_settings(plan, mode, brokers.bootstrap_servers, disk.folder)
    skipped, skipped_before = plan.skipped(disk.refused), brokers.markers_skipped()
    kinds = [kind for kind in plan.kinds if kind not in skipped]
    await asyncio.to_thread(create_topics, chaos_settings(replace(plan, debug=""), mode, brokers.bootstrap_servers))
    workers = Workers(plan.workers, settings, logs, timeline, static=plan.static_members)
    world = World(settings, workers, brokers, disk, timeline)
    sender = Sender(settings, plan.rate, random.Random(f"{plan.seed} records"))
    try:
        ending = await _act(plan, mode, kinds, world, sender)
    finally:
        await world.workers.close()
        sender.abandon()
    return ModeRun(
        mode=mode,
        verdict=await asyncio.to_thread(_judge, mode, settings, sender, plan.sound),
        faults={**{kind: timeline.faults[kind] for kind in kinds}, "poison_record": _poison(sender)},
        skipped=skipped,
        exits=dict(world.workers.exits),
        lines=count_lines(logs.glob("*.log")),
        markers_skipped=brokers.markers_skipped() - skipped_before,
        counters=add_up(logs.glob("*.counters")),
        timeline=timeline,
        ending=ending,
    )


async def _act(plan: Plan, mode: str, kinds: Collection[str], world: World, sender: Sender) -> Ending:
    """Send and break things, let the workers catch up, stop them."""
    await world.workers.open()
    sender.start()
    await strike_all(world, kinds, plan.seconds, f"{plan.seed} {mode}")
    await asyncio.to_thread(sender.stop)
    refused = dict(sender.refused)
    world.timeline.note("faults ended", f"{len(sender.acked)} records acknowledged, {refused or 'none'} refused")
    began = time.monotonic()
    stuck = await _catch_up(world.settings)
    seconds = time.monotonic() - began
    world.timeline.note("caught up", stuck or f"after {seconds:.1f} s")
    return Ending(stuck=stuck, unclean=await _stop(world.workers, world.settings), caught_up_s=seconds)


def _poison(sender: Sender) -> int:
    return sum(count for kind, count in sender.kinds.items() if is_poison(kind))


async def _catch_up(settings: Settings) -> str:
    """Wait until the group has committed every record, as long as it gets anywhere; where it stands, if it does not."""
    kafka = settings.kafka
    ends: dict[tuple[str, int], int] = {}
    for topic in (kafka.prompts, kafka.images):
        ends |= await asyncio.to_thread(end_offsets, kafka.bootstrap_servers, topic, kafka.partitions)
    before: dict[tuple[str, int], int] = {}
    deadline = time.monotonic() + STALL_TIMEOUT_S
    while time.monotonic() < deadline:
        now = await asyncio.to_thread(committed_offsets, kafka.bootstrap_servers, kafka.group_id, list(ends))
        if all(now.get(name, 0) >= end for name, end in ends.items()):
            return ""
        if now != before:
            before, deadline = now, time.monotonic() + STALL_TIMEOUT_S
        await asyncio.sleep(POLL_S)
    behind = {name: (before.get(name, 0), end) for name, end in ends.items() if before.get(name, 0) < end}
    places = ", ".join(f"{topic}/{number} at {at} of {end}" for (topic, number), (at, end) in behind.items())
    return f"nothing was committed for {STALL_TIMEOUT_S:g} s: {places}"


async def _stop(workers: Workers, settings: Settings) -> list[str]:
    """Stop the workers in an orderly way; the complaints about those that did not end well."""
    last = workers.alive
    left = await workers.stop(settings.worker.drain_timeout_s + 20)
    ended = [worker for worker in last if worker not in left]
    return [
        *(f"{worker.name} did not end on SIGTERM" for worker in left),
        *(f"{worker.name} ended with {worker.status} on SIGTERM" for worker in ended if worker.status != 0),
    ]


def _judge(mode: str, settings: Settings, sender: Sender, sound: bool) -> Verdict:
    kafka = settings.kafka

    def read(names: Collection[str]) -> Sequence[Seen]:
        return [seen for name in names for seen in read_topic(kafka.bootstrap_servers, name, kafka.partitions)]

    records = {seen.place: seen for seen in read((kafka.prompts, kafka.images))}
    outcomes = read((kafka.prompt_results, kafka.image_results))
    return judge(mode, sender.acked, records, outcomes, read((kafka.dead_letters,)), sound=sound)
