"""What a promise costs: records per second through a whole worker, at least once and exactly once, in one run.

The worker is the real one (agents, ledger, outbox, transport) on an engine that answers at once, so nothing but
delivery is measured. 256-byte prompts, four partitions, filled before the clock starts; the clock runs from the first
outcome that a read_committed consumer sees to the last.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from confluent_kafka import Consumer, Producer

from agents.app import create_app
from agents.topics import create_topics
from benchmarks.harness import arguments, broker, consumed_rate, in_turn, report, run_alone
from pipeline.errors import EngineError
from pipeline.metrics import Metrics
from pipeline.settings import KafkaSettings, Settings, WorkerSettings
from schemas.messages import InferenceRequest, ModelInfo, Outcome, TextOutput, TokenPiece, outcome_id

MODES = ("at_least_once", "exactly_once")
PROMPT = b"x" * 256
MODEL = ModelInfo(name="none", version="1", digest="0" * 64, precision="int8", provider="cpu")


def main() -> None:
    """Run the benchmark, or one side of it."""
    args = arguments(__doc__)
    if args.side:
        rate = asyncio.run(serve(args.side, os.environ["SERVERS"], int(os.environ["COUNT"])))
        sys.stdout.write(json.dumps({"rate": rate}) + "\n")
        return
    count, runs = (5_000, 1) if args.quick else (40_000, 5)
    with broker() as servers:
        medians = in_turn({mode: partial(_rate, servers, mode, count) for mode in MODES}, runs)
    ratio = medians["exactly_once"] / medians["at_least_once"]
    figures = {"exactly_once_ratio": ratio, **{f"{mode}_records_per_s": rate for mode, rate in medians.items()}}
    rows = [(f"{mode}, records/s", f"{rate:,.0f}") for mode, rate in medians.items()]
    report("delivery", figures, [*rows, ("exactly_once / at_least_once", f"{ratio:.2f}")], args, note="medians")


def _rate(servers: str, mode: str, count: int) -> float:
    return run_alone("benchmarks.delivery", mode, SERVERS=servers, COUNT=str(count))["rate"]


class InstantEngine:
    """Answers every request at once."""

    models = (MODEL,)
    runs = 0

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.failed: asyncio.Future[EngineError] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def submit(self, request: InferenceRequest, *, emit: Callable[[TokenPiece], None] | None = None) -> Outcome:
        return Outcome(
            id=outcome_id(request.source, MODEL.digest),
            status="ok",
            request_id=request.id,
            source=request.source,
            created_at_ms=time.time_ns() // 1_000_000,
            model=MODEL,
            output=TextOutput(text="x" * 200, finish_reason="stop"),
        )


async def serve(mode: str, servers: str, count: int) -> float:
    """Serve ``count`` records in delivery ``mode``; outcomes per second as a reader sees them."""
    name = uuid.uuid4().hex
    settings = Settings(
        kafka=KafkaSettings(bootstrap_servers=servers, topic_prefix=f"{name}.", group_id=name),
        worker=msgspec.convert({"delivery": mode, "max_in_flight_records": 5_000}, WorkerSettings),
    )
    create_topics(settings)
    fill(settings, count)
    app: Any = create_app(settings, InstantEngine())  # type: ignore[arg-type]
    await app.start()
    rate = await asyncio.to_thread(read, settings, count)
    await app.stop()
    return rate


def fill(settings: Settings, count: int) -> None:
    """Put ``count`` prompts on the topic."""
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers, "linger.ms": 20})
    for number in range(count):
        producer.produce(settings.kafka.prompts, PROMPT, partition=number % settings.kafka.partitions)
        producer.poll(0)
    producer.flush()


def read(settings: Settings, count: int) -> float:
    """Outcomes per second, first to last."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 20,
        }
    )
    return consumed_rate(consumer, settings.kafka.prompt_results, count)


if __name__ == "__main__":
    main()
