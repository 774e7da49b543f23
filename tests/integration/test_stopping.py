"""A worker process that is told to stop ends within its bound, whatever its device or Kafka do."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agents.broker import EmbeddedBroker
from agents.topics import create_topics
from pipeline.settings import BrokerSettings, KafkaSettings, Settings
from tests.records import committed, produce, read_outcomes
from tests.waiting import PATIENCE_S, wait_until
from tests.workers import worker_environ

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

DRAIN_S = 2.0
LONG_DRAIN_S = 120.0
"""Longer than anything takes that need not wait for it."""
BUSY_S = 10.0
"""For the end of a Python process on busy cores, beside what docs/operations.md allows."""
AWAY_S = 20.0
"""docs/operations.md: how much longer than the drain a stop may take while Kafka is away."""
HANG_S = 5.0
"""docs/operations.md: how much longer than the drain a stop may take with a device that never answers."""


class Stopping(NamedTuple):
    """A worker that serves, and where it tells what it does."""

    process: subprocess.Popen[str]
    metrics_port: int

    def wait_until_it_holds(self, count: int) -> None:
        """Return once it has fetched ``count`` records."""
        wait_until(lambda: self._fetched() >= count, f"the worker has fetched {count} records")

    def _fetched(self) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=60) as response:
            page = response.read().decode()
        return sum(map(float, re.findall(r"^millrace_records_total\{.*\} (\S+)$", page, re.MULTILINE)))

    def seconds_to_stop(self, timeout_s: float) -> float:
        """Send SIGTERM and wait for the end."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout_s)
        return time.monotonic() - began


RunWorker = Callable[..., Stopping]


@pytest.fixture
def run_worker(tmp_path: Path) -> Iterator[RunWorker]:
    """Starts a worker that takes ``work_s`` per record, or whose device ``blocks``; returns when it serves."""
    with ExitStack() as stack:

        def run(
            kafka: KafkaSettings,
            work_s: float,
            *,
            delivery: str = "at_least_once",
            blocks: bool = False,
            drain_s: float = DRAIN_S,
        ) -> Stopping:
            engine = ["tests.blocked_engine"] if blocks else ["tests.engines", str(work_s)]
            environ = {
                **os.environ,
                **worker_environ(kafka, "none"),
                "MILLRACE_WORKER__DRAIN_TIMEOUT_S": str(drain_s),
                "MILLRACE_WORKER__DELIVERY": delivery,
                "MILLRACE_KAFKA__SESSION_TIMEOUT_S": "6",
            }
            log = stack.enter_context((tmp_path / f"{time.monotonic_ns()}.log").open("w"))
            process = subprocess.Popen(
                [sys.executable, "-m", *engine],
                env=environ, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            assert ready["event"] == "ready"
            return Stopping(process, ready["metrics_port"])

        yield run


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_stuck_device_holds_up_a_stop_for_the_drain_timeout_and_loses_nothing(
    delivery: str, kafka_settings: KafkaSettings, run_worker: RunWorker
) -> None:
    settings = Settings(kafka=kafka_settings)
    stuck = run_worker(kafka_settings, float("inf"), delivery=delivery)
    sent = produce(settings, kafka_settings.prompts, [(f"k{i}", b"a prompt") for i in range(20)])
    stuck.wait_until_it_holds(sent)
    took_s = stuck.seconds_to_stop(DRAIN_S + HANG_S + BUSY_S)
    assert stuck.process.returncode == 0
    assert took_s >= DRAIN_S, "it did not try to finish what it held"
    assert committed(settings, kafka_settings.prompts) == 0
    run_worker(kafka_settings, 0.0, delivery=delivery)
    assert len(read_outcomes(settings, kafka_settings.prompt_results, sent)) == sent


def test_what_can_be_finished_within_the_drain_timeout_is_finished_and_committed(
    kafka_settings: KafkaSettings, run_worker: RunWorker
) -> None:
    settings = Settings(kafka=kafka_settings)
    worker = run_worker(kafka_settings, 1.0, drain_s=LONG_DRAIN_S)
    sent = produce(settings, kafka_settings.prompts, [(None, b"a prompt")] * 20)
    worker.wait_until_it_holds(sent)
    assert worker.seconds_to_stop(LONG_DRAIN_S) < LONG_DRAIN_S
    assert worker.process.returncode == 0
    assert len(read_outcomes(settings, kafka_settings.prompt_results, sent)) == sent
    assert committed(settings, kafka_settings.prompts) == sent


def test_a_second_interrupt_ends_a_worker_at_once(kafka_settings: KafkaSettings, run_worker: RunWorker) -> None:
    worker = run_worker(kafka_settings, float("inf"), drain_s=LONG_DRAIN_S)
    produce(Settings(kafka=kafka_settings), kafka_settings.prompts, [(None, b"a prompt")])
    worker.wait_until_it_holds(1)

    def interrupt() -> None:  # two that come before the first is seen to are one
        worker.process.send_signal(signal.SIGINT)
        time.sleep(0.3)

    wait_until(lambda: worker.process.poll() is not None, "the worker ends", busy=interrupt)
    assert worker.process.returncode == 130


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_sigterm_changes_nothing(
    first: signal.Signals, kafka_settings: KafkaSettings, run_worker: RunWorker
) -> None:
    process = run_worker(kafka_settings, 0.0).process
    process.send_signal(first)
    wait_until(  # down to its last moment
        lambda: process.poll() is not None,
        "the worker ends",
        poll_s=0.005,
        busy=lambda: process.send_signal(signal.SIGTERM),
    )
    assert process.returncode == 0


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_stops_within_a_bound_while_kafka_is_away(
    delivery: str, how: signal.Signals, tmp_path: Path, run_worker: RunWorker
) -> None:
    broker = EmbeddedBroker(BrokerSettings(data=str(tmp_path / "broker"), heap_mib=256, start_timeout_s=180))
    servers = broker.start(owned=True).bootstrap_servers
    pids = broker.node_pids().values()
    try:
        settings = Settings(kafka=KafkaSettings(bootstrap_servers=servers, partitions=2))
        create_topics(settings)
        worker = run_worker(settings.kafka, 1.0, delivery=delivery)
        produce(settings, settings.kafka.prompts, [(None, b"a prompt")] * 20)
        worker.wait_until_it_holds(20)
        for pid in pids:
            os.kill(pid, how)
        worker.seconds_to_stop(DRAIN_S + AWAY_S + BUSY_S)
        assert worker.process.returncode == 0
    finally:
        for pid in pids if how == signal.SIGSTOP else ():
            os.kill(pid, signal.SIGCONT)
        broker.stop()


def test_a_worker_whose_device_hangs_while_records_arrive_ends_with_an_error_and_commits_none(
    kafka_settings: KafkaSettings, run_worker: RunWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_WORKER__WATCHDOG_TIMEOUT_S", "2")
    settings = Settings(kafka=kafka_settings)
    worker = run_worker(kafka_settings, float("inf")).process
    feed_until_ended(worker, settings)
    assert worker.returncode == 1
    assert committed(settings, kafka_settings.prompts) == 0


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_thread_that_hangs_in_the_device_does_not_hold_up_a_stop(
    delivery: str, kafka_settings: KafkaSettings, run_worker: RunWorker
) -> None:
    settings = Settings(kafka=kafka_settings)
    worker = run_worker(kafka_settings, 0.0, delivery=delivery, blocks=True)
    produce(settings, kafka_settings.prompts, [(f"k{i}", b"a prompt") for i in range(8)])
    worker.wait_until_it_holds(8)
    worker.seconds_to_stop(DRAIN_S + HANG_S + BUSY_S)
    assert worker.process.returncode == 0
    assert committed(settings, kafka_settings.prompts) == 0


def test_a_thread_that_hangs_in_the_device_does_not_keep_the_watchdog_from_ending_the_worker(
    kafka_settings: KafkaSettings, run_worker: RunWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_WORKER__WATCHDOG_TIMEOUT_S", "2")
    worker = run_worker(kafka_settings, 0.0, blocks=True).process
    feed_until_ended(worker, Settings(kafka=kafka_settings))
    assert worker.returncode == 1


def test_a_worker_under_fausts_own_command_line_ends_when_it_cannot_go_on(
    kafka_settings: KafkaSettings, tmp_path: Path
) -> None:
    environ = {**os.environ, **worker_environ(kafka_settings, "none"), "MILLRACE_WORKER__WATCHDOG_TIMEOUT_S": "2"}
    command = [str(Path(sys.executable).with_name("faust")), "-A", "tests.blocked_engine", "worker", "--without-web"]
    with (tmp_path / "faust.log").open("w") as log, subprocess.Popen(command, env=environ, stderr=log) as worker:
        try:
            feed_until_ended(worker, Settings(kafka=kafka_settings))
            assert worker.returncode == 1, (tmp_path / "faust.log").read_text()
        finally:
            worker.kill()
    assert "no record was served for 2 s" in (tmp_path / "faust.log").read_text()


def feed_until_ended(worker: subprocess.Popen[Any], settings: Settings) -> None:
    records = [(f"k{i}", b"a prompt") for i in range(8)]
    wait_until(
        lambda: worker.poll() is not None,
        "the worker ends",
        timeout_s=2 * PATIENCE_S,
        poll_s=0.3,
        busy=lambda: produce(settings, settings.kafka.prompts, records),
    )
