"""What a worker holds in memory while its device stands still and large records pile up in front of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from confluent_kafka import Producer
from msgspec.structs import replace

from agents.topics import create_topics
from agents.worker_config import PREFETCH_KIB, consumer_config
from pipeline.settings import KafkaSettings, Settings
from tests.records import read_outcomes, sources
from tests.waiting import wait_until
from tests.workers import TINY, worker_environ

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

MIB = 1024 * 1024
RECORDS = 80
RECORD_BYTES = 5 * MIB
IN_FLIGHT_BYTES = 64 * MIB
SLACK_BYTES = 24 * MIB
"""What the allocators keep, and the worker's own work since its start."""


class Stopped(NamedTuple):
    """A worker whose device is stopped until ``release`` is made."""

    process: subprocess.Popen[str]
    release: Path

    def peak_bytes(self) -> int:
        """The most that the process ever had in memory, as the kernel counts it."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024


@pytest.fixture
def settings(kafka_settings: KafkaSettings) -> Settings:
    # One fetch brings at most four of the largest records.
    settings = Settings(kafka=replace(kafka_settings, topic_prefix=f"large-{kafka_settings.topic_prefix}"))
    settings = replace(settings, kafka=replace(settings.kafka, max_message_bytes=6 * MIB))
    create_topics(settings)
    return settings


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[list[Stopped]]:
    """Takes the workers that a test starts, and ends them after it."""
    started: list[Stopped] = []
    yield started
    for worker in started:
        worker.process.kill()
        worker.process.communicate()


def stopped_worker(settings: Settings, folder: Path) -> Stopped:
    environ = worker_environ(settings.kafka, TINY) | {
        "MILLRACE_KAFKA__MAX_MESSAGE_BYTES": str(settings.kafka.max_message_bytes),
        "MILLRACE_WORKER__MAX_IN_FLIGHT_BYTES": str(IN_FLIGHT_BYTES),
    }
    release = folder / "release"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.held_engine", str(release)],
        env={**os.environ, **environ}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return Stopped(process, release)


def fill(settings: Settings, image: bytes) -> None:
    """``RECORDS`` times ``image``, uncompressed, so that a fetch is as large as what it brings."""
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers, "message.max.bytes": 2 * RECORD_BYTES})
    for number in range(RECORDS):
        producer.produce(settings.kafka.images, image, str(number))
        producer.poll(0)
    assert producer.flush(60) == 0


def peak_once_still(worker: Stopped, least_bytes: int) -> int:
    """The peak of the worker's memory once it is above ``least_bytes`` and has not risen for five seconds."""
    peak, since = 0, time.monotonic()

    def still() -> bool:
        nonlocal peak, since
        assert worker.process.poll() is None
        if (now := worker.peak_bytes()) > peak + MIB:
            peak, since = now, time.monotonic()
        return peak > least_bytes and time.monotonic() > since + 5

    wait_until(still, f"the worker holds {least_bytes / MIB:.0f} MiB, and no more from then on", timeout_s=120)
    return worker.peak_bytes()


def test_memory_stays_under_its_bound_while_the_device_stands_still_and_every_record_is_answered_after_that(
    settings: Settings, start: list[Stopped], tmp_path: Path
) -> None:
    """The records are there before the worker, so its first fetch, which knows no sizes yet, finds a full queue."""
    image = b"\xff\xd8\xff" + os.urandom(RECORD_BYTES)
    fill(settings, image)
    worker = stopped_worker(settings, tmp_path)
    start.append(worker)
    assert worker.process.stdout is not None
    before_bytes = json.loads(worker.process.stdout.readline())["before_bytes"]
    peak_bytes = peak_once_still(worker, before_bytes + IN_FLIGHT_BYTES // 2)

    worker.release.touch()
    found = read_outcomes(settings, settings.kafka.image_results, RECORDS)
    printed, _ = worker.process.communicate(timeout=60)
    held_bytes = json.loads(printed.splitlines()[-1])["held_bytes"]

    # librdkafka stops fetching at its prefetch bound, which one fetch may overshoot. It fills up anew while the poll
    # thread still copies what it took from there: the first time, when no size is known yet, that is all of it.
    queue_bytes = PREFETCH_KIB * 1024 + consumer_config(settings)["fetch.max.bytes"]
    grown_bytes = peak_bytes - before_bytes
    bound_bytes = IN_FLIGHT_BYTES + 2 * queue_bytes + SLACK_BYTES
    assert bound_bytes < RECORDS * RECORD_BYTES / 2, "without a bound all of the records would be held"
    assert IN_FLIGHT_BYTES / 2 < held_bytes <= IN_FLIGHT_BYTES + 2 * (RECORD_BYTES + 1_024)
    assert IN_FLIGHT_BYTES / 2 < grown_bytes <= bound_bytes, f"grew by {grown_bytes / MIB:.0f} MiB"
    assert sorted(sources(found).values()) == [1] * RECORDS
