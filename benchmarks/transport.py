"""Records per second that reach a Faust agent which ignores them: our transport beside Faust's own.

Values of 1 KB, one topic of four partitions, filled before the clock starts. Each side runs in a process of its own;
the clock runs from the first record that the agent sees to the last. CPU time is that of the side's process.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

import faust
from confluent_kafka import Consumer, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from agents.ledger import Ledger, Partition
from agents.transport.batches import Batch
from agents.transport.driver import BatchApp
from agents.transport.flow import Flow
from agents.transport.poller import Poller
from agents.worker_config import consumer_config
from benchmarks.harness import arguments, broker, in_turn, report, run_alone
from pipeline.errors import TransportError
from pipeline.settings import KafkaSettings, Settings

VALUE_BYTES = 1_024
OURS, STOCK, BARE = "millrace", "faust", "bare consume()"


def main() -> None:
    """Run the benchmark, or one side of it."""
    args = arguments(__doc__)
    if args.side:
        sides = {OURS: ours, STOCK: stock, BARE: bare}
        sys.stdout.write(json.dumps(sides[args.side](os.environ["SERVERS"], int(os.environ["COUNT"]))) + "\n")
        return
    counts = {OURS: 800_000, STOCK: 50_000, BARE: 800_000}
    if args.quick:
        counts = {name: count // 10 for name, count in counts.items()}
    with broker() as servers:
        fill(servers, max(counts.values()))
        contest = {name: partial(_measure, servers, name, count) for name, count in counts.items()}
        medians = in_turn(contest, 1 if args.quick else 5)
    rates = {name: found["records_per_s"] for name, found in medians.items()}
    times = rates[OURS] / rates[STOCK]
    figures = {"times_stock": times, "share_of_bare": rates[OURS] / rates[BARE]} | {
        f"{name.split()[0]}_{figure}": value for name, found in medians.items() for figure, value in found.items()
    }
    rows = [
        (f"{name}, records/s (CPU us/record)", f"{found['records_per_s']:,.0f} ({found['cpu_us']:.1f})")
        for name, found in medians.items()
    ]
    report("transport", figures, [*rows, ("millrace / faust", f"{times:.1f} x")], args, note="medians")


def _measure(servers: str, side: str, count: int) -> dict[str, float]:
    return run_alone("benchmarks.transport", side, SERVERS=servers, COUNT=str(count))


def fill(servers: str, count: int) -> None:
    """Put ``count`` records on the topic."""
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic("bench", 4, 1)])["bench"].result()
    producer = Producer(
        {"bootstrap.servers": servers, "linger.ms": 20, "batch.size": 1_000_000, "queue.buffering.max.messages": 10**6}
    )
    value = os.urandom(VALUE_BYTES)
    for number in range(count):
        while True:
            try:
                producer.produce("bench", value, partition=number % 4)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()


class Clock:
    """Counts records; rate and CPU time of the process from the first to the last of ``count``."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._count = count
        self._start_s = self._start_cpu_s = 0.0
        self.found: asyncio.Future[dict[str, float]] = asyncio.get_running_loop().create_future()

    def tick(self, records: int) -> None:
        """``records`` more have come."""
        if not self._start_s:
            self._start_s, self._start_cpu_s = time.perf_counter(), time.process_time()
        self._left -= records
        if self._left <= 0 and not self.found.done():
            self.found.set_result(_figures(self._count - self._left, self._start_s, self._start_cpu_s))


def _figures(records: int, start_s: float, start_cpu_s: float) -> dict[str, float]:
    return {
        "records_per_s": records / (time.perf_counter() - start_s),
        "cpu_us": (time.process_time() - start_cpu_s) / records * 1e6,
    }


class OurApp(BatchApp):
    """Our transport, with the ledger that a worker opens entries in."""

    def __init__(self, servers: str) -> None:
        super().__init__("bench", broker="kafka://unused", store="memory://", topic_allow_declare=False)
        settings = Settings(kafka=KafkaSettings(bootstrap_servers=servers, group_id=uuid.uuid4().hex))
        self.ledger = Ledger()
        self.poller = Poller(consumer_config(settings), {"bench": Flow(max_records=10**9, max_bytes=10**12)})

    def start_fetching(self, topics: list[str]) -> None:
        """Begin."""
        self.poller.begin(Hop(self, asyncio.get_running_loop()))


class Hop:
    """Takes what the poll thread tells to the event loop, as a worker's delivery does."""

    def __init__(self, app: OurApp, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._soon = loop.call_soon_threadsafe

    def on_assigned(self, partitions: list[Partition]) -> None:
        self._soon(self._app.ledger.assign, partitions)

    def on_messages(self, partition: Partition, messages: tuple[Message, ...]) -> None:
        self._soon(self._deliver, partition, messages)

    def on_revoked(self, partitions: list[Partition], metadata: Any) -> Mapping[Partition, int]:
        return {}

    def on_lost(self, partitions: list[Partition]) -> None:
        raise SystemExit(f"lost {partitions} in a benchmark")

    def on_position(self, bounds: Mapping[Partition, tuple[int, int]], held: frozenset[Partition]) -> None:
        pass

    def on_failed(self, error: TransportError) -> None:
        raise SystemExit(str(error))

    def _deliver(self, partition: Partition, messages: tuple[Message, ...]) -> None:
        epoch = self._app.ledger.open(partition, [message.offset() or 0 for message in messages])
        self._app.topics.deliver(Batch(partition, epoch, messages))


def ours(servers: str, count: int) -> dict[str, float]:
    """Our transport into an agent that ignores the records."""

    async def run() -> dict[str, float]:
        app, clock = OurApp(servers), Clock(count)

        async def ignore(batches: AsyncIterator[Any]) -> None:
            async for batch in batches:
                clock.tick(len(batch.messages))

        app.agent(app.topic("bench", acks=False, value_type=bytes), name="ignore")(ignore)
        await app.start()
        found = await clock.found
        await asyncio.to_thread(app.poller.stop)
        await app.stop()
        return found

    return asyncio.run(run())


def stock(servers: str, count: int) -> dict[str, float]:
    """Faust's own transport into an agent that ignores the records, spared acks and decoding."""

    async def run() -> dict[str, float]:
        app = faust.App(
            uuid.uuid4().hex,
            broker=f"kafka://{servers}",
            store="memory://",
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            consumer_auto_offset_reset="earliest",
        )
        clock = Clock(count)

        async def ignore(stream: Any) -> None:
            async for _ in stream.noack():
                clock.tick(1)

        topic = app.topic("bench", acks=False, value_type=bytes, value_serializer="raw")
        app.agent(topic, name="ignore")(ignore)
        await app.start()
        found = await clock.found
        await app.stop()
        return found

    return asyncio.run(run())


def bare(servers: str, count: int) -> dict[str, float]:
    """confluent-kafka's consumer alone: the ceiling."""
    settings = Settings(kafka=KafkaSettings(bootstrap_servers=servers, group_id=uuid.uuid4().hex))
    consumer = Consumer(consumer_config(settings))
    consumer.subscribe(["bench"])
    seen, start_s, start_cpu_s = 0, 0.0, 0.0
    while seen < count:
        if messages := consumer.consume(1, 1.0):
            if not start_s:
                start_s, start_cpu_s = time.perf_counter(), time.process_time()
            seen += len(messages) + len(consumer.consume(1_000, 0))
    found = _figures(seen, start_s, start_cpu_s)
    consumer.close()
    return found


if __name__ == "__main__":
    main()
