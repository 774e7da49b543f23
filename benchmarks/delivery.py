"""What a promise costs: records per second through a whole worker, at least once and exactly once, in one run.

The worker is the real one (agents, ledger, outbox, transport) with its default settings, in a process of its own, on
an engine that answers at once, so nothing but delivery is measured. 256-byte prompts without a key, four partitions,
filled before the clock starts. The clock runs from the first record that reaches the engine to the last outcome that a
read_committed consumer in another process sees, so a mode that holds outcomes back gains nothing by it.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import Consumer, Producer

from agents.app import create_app
from agents.topics import create_topics
from benchmarks.harness import arguments, broker, in_turn, report
from pipeline.fake_engine import FakeEngine
from pipeline.settings import KafkaSettings, Settings, WorkerSettings
from schemas.messages import InferenceRequest, Outcome, TokenPiece

MODES = ("at_least_once", "exactly_once")
PROMPT = b"x" * 256
ANSWER = "x" * 200
TIMEOUT_S = 300.0


def main() -> None:
    """Run the benchmark, or one side of it."""
    args = arguments(__doc__)
    if args.side:
        settings = msgspec.json.decode(os.environ["SETTINGS"], type=Settings)
        sys.stdout.write(json.dumps(asyncio.run(serve(settings))) + "\n")
        return
    count, runs = (10_000, 1) if args.quick else (100_000, 5)
    with broker() as servers:
        medians = in_turn({mode: partial(measure, servers, mode, count) for mode in MODES}, runs)
    ratio = medians["exactly_once"]["records_per_s"] / medians["at_least_once"]["records_per_s"]
    figures = {f"{mode}_{name}": value for mode, found in medians.items() for name, value in found.items()}
    rows = [
        row
        for mode, found in medians.items()
        for row in (
            (f"{mode}, records/s", f"{found['records_per_s']:,.0f}"),
            (f"{mode}, CPU time of the worker, us/record", f"{found['cpu_us']:.0f}"),
        )
    ]
    rows.append(("exactly_once / at_least_once", f"{ratio:.2f}"))
    report("delivery", {"exactly_once_ratio": ratio, **figures}, rows, args, note="medians")


def measure(servers: str, mode: str, count: int) -> dict[str, float]:
    """Serve ``count`` records in delivery ``mode``: outcomes per second, and the worker's CPU time for each."""
    name = uuid.uuid4().hex
    settings = Settings(
        kafka=KafkaSettings(bootstrap_servers=servers, topic_prefix=f"{name}.", group_id=name),
        worker=msgspec.convert({"delivery": mode}, WorkerSettings),
    )
    create_topics(settings)
    fill(settings, count)
    command = [sys.executable, "-m", "benchmarks.delivery", "--side", mode]
    environ = {**os.environ, "SETTINGS": msgspec.json.encode(settings).decode()}
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        try:
            ended_s = read(settings, count)
            printed, _ = worker.communicate(b"\n", timeout=TIMEOUT_S)
        finally:
            worker.kill()
    found = json.loads(printed.splitlines()[-1])
    return {"records_per_s": count / (ended_s - found["started_s"]), "cpu_us": found["cpu_s"] / count * 1e6}


class Moment(NamedTuple):
    """Seconds on the system's monotonic clock, which all processes share, and of this process's CPU time."""

    at_s: float
    cpu_s: float


def now() -> Moment:
    """This moment."""
    return Moment(time.monotonic(), time.process_time())


class InstantEngine(FakeEngine):
    """Answers every request at once, and knows when the first came."""

    started = Moment(0.0, 0.0)

    async def submit(self, request: InferenceRequest, *, emit: Callable[[TokenPiece], None] | None = None) -> Outcome:
        if not self.started.at_s:
            self.started = now()
        return await super().submit(request, emit=emit)


async def serve(settings: Settings) -> dict[str, float]:
    """Be the worker until a line comes on stdin; when the first record came, and the CPU time used since."""
    engine = InstantEngine(ANSWER)
    app: Any = create_app(settings, engine)  # type: ignore[arg-type]
    await app.start()
    await asyncio.to_thread(sys.stdin.readline)
    cpu_s = now().cpu_s - engine.started.cpu_s
    await app.stop()
    return {"started_s": engine.started.at_s, "cpu_s": cpu_s}


def fill(settings: Settings, count: int) -> None:
    """Put ``count`` prompts on the topic."""
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers, "linger.ms": 20})
    for number in range(count):
        producer.produce(settings.kafka.prompts, PROMPT, partition=number % settings.kafka.partitions)
        producer.poll(0)
    producer.flush()


def read(settings: Settings, count: int) -> float:
    """Read ``count`` outcomes; when the last one was seen, on the monotonic clock."""
    config = {"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": uuid.uuid4().hex}
    consumer = Consumer({**config, "auto.offset.reset": "earliest", "isolation.level": "read_committed"})
    consumer.subscribe([settings.kafka.prompt_results])
    seen, deadline = 0, now().at_s + TIMEOUT_S
    while seen < count and now().at_s < deadline:
        if messages := consumer.consume(1, 1.0):
            seen += len(messages) + len(consumer.consume(1_000, 0))
    ended_s = now().at_s
    consumer.close()
    if seen < count:
        raise SystemExit(f"only {seen:,} of {count:,} outcomes came within {TIMEOUT_S:g} s.")
    return ended_s


if __name__ == "__main__":
    main()
