"""A worker process that is told to stop ends within its bound, whatever its device or Kafka do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from agents.broker import EmbeddedBroker
from agents.topics import create_topics
from pipeline.settings import BrokerSettings, KafkaSettings, Settings
from tests.records import committed, produce, read_outcomes
from tests.workers import worker_environ

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

DRAIN_S = 2.0
MARGIN_S = 5.0
"""For the last commit's share of nothing, leaving the group, and the end of a Python process on busy cores."""
AWAY_S = 20.0
"""docs/operations.md: how much longer than the drain a stop may take while Kafka is away."""

RunWorker = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run_worker(tmp_path: Path) -> Iterator[RunWorker]:
    """Starts a worker that takes ``work_s`` per record, or whose device ``blocks``; returns when it serves."""
    with ExitStack() as stack:

        def run(
            kafka: KafkaSettings, work_s: float, *, delivery: str = "at_least_once", blocks: bool = False
        ) -> subprocess.Popen[str]:
            engine = ["tests.blocked_engine"] if blocks else ["tests.engines", str(work_s)]
            environ = {
                **os.environ,
                **worker_environ(kafka, "none"),
                "MILLRACE_WORKER__DRAIN_TIMEOUT_S": str(DRAIN_S),
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
            assert "ready" in process.stdout.readline()
            return process

        yield run


def seconds_to_stop(process: subprocess.Popen[str], timeout_s: float) -> float:
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(timeout_s)
    return time.monotonic() - began


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_stuck_device_holds_up_a_stop_for_the_drain_timeout_and_loses_nothing(
    delivery: str, kafka_settings: KafkaSettings, run_worker: RunWorker
) -> None:
    settings = Settings(kafka=kafka_settings)
    stuck = run_worker(kafka_settings, float("inf"), delivery=delivery)
    sent = produce(settings, kafka_settings.prompts, [(f"k{i}", b"a prompt") for i in range(20)])
    time.sleep(2.0)
    took_s = seconds_to_stop(stuck, DRAIN_S + MARGIN_S)
    assert stuck.returncode == 0
    assert took_s >= DRAIN_S, "it did not try to finish what it held"
    assert committed(settings, kafka_settings.prompts) == 0
    run_worker(kafka_settings, 0.0, delivery=delivery)
    assert len(read_outcomes(settings, kafka_settings.prompt_results, sent)) == sent


def test_what_can_be_finished_within_the_drain_timeout_is_finished_and_committed(
    kafka_settings: KafkaSettings, run_worker: RunWorker
) -> None:
    settings = Settings(kafka=kafka_settings)
    worker = run_worker(kafka_settings, 1.0)
    sent = produce(settings, kafka_settings.prompts, [(None, b"a prompt")] * 20)
    time.sleep(0.7)
    assert seconds_to_stop(worker, DRAIN_S + MARGIN_S) < DRAIN_S + MARGIN_S
    assert worker.returncode == 0
    done = len(read_outcomes(settings, kafka_settings.prompt_results, sent, timeout_s=2))
    assert committed(settings, kafka_settings.prompts) == done


def test_a_second_interrupt_ends_a_worker_at_once(kafka_settings: KafkaSettings, run_worker: RunWorker) -> None:
    settings = Settings(kafka=kafka_settings)
    worker = run_worker(kafka_settings, float("inf"))
    produce(settings, kafka_settings.prompts, [(None, b"a prompt")])
    time.sleep(1.0)
    worker.send_signal(signal.SIGINT)
    time.sleep(0.3)
    worker.send_signal(signal.SIGINT)
    assert worker.wait(1.5) == 130


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_sigterm_changes_nothing(
    first: signal.Signals, kafka_settings: KafkaSettings, run_worker: RunWorker
) -> None:
    worker = run_worker(kafka_settings, 0.0)
    worker.send_signal(first)
    while worker.poll() is None:  # down to its last moment
        worker.send_signal(signal.SIGTERM)
        time.sleep(0.005)
    assert worker.returncode == 0


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_stops_within_a_bound_while_kafka_is_away(
    delivery: str, how: signal.Signals, tmp_path: Path, run_worker: RunWorker
) -> None:
    broker = EmbeddedBroker(BrokerSettings(data=str(tmp_path / "broker"), heap_mib=256))
    servers = broker.start(owned=True).bootstrap_servers
    pids = broker.node_pids().values()
    try:
        settings = Settings(kafka=KafkaSettings(bootstrap_servers=servers, partitions=2))
        create_topics(settings)
        worker = run_worker(settings.kafka, 1.0, delivery=delivery)
        produce(settings, settings.kafka.prompts, [(None, b"a prompt")] * 20)
        time.sleep(1.5)
        for pid in pids:
            os.kill(pid, how)
        seconds_to_stop(worker, DRAIN_S + AWAY_S)
        assert worker.returncode == 0
    finally:
        for pid in pids if how == signal.SIGSTOP else ():
            os.kill(pid, signal.SIGCONT)
        broker.stop()


def test_a_worker_whose_device_hangs_while_records_arrive_ends_with_an_error_and_commits_none(
    kafka_settings: KafkaSettings, run_worker: RunWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_WORKER__WATCHDOG_TIMEOUT_S", "2")
    settings = Settings(kafka=kafka_settings)
    worker = run_worker(kafka_settings, float("inf"))
    feed_until_ended(worker, settings, 15)
    assert worker.returncode == 1
    assert committed(settings, kafka_settings.prompts) == 0


HANG_S = 12.0
"""For a device thread that never ends, beside the drain or the watchdog: 3 s to close the engine, 2 s to end, and room
for a loaded machine."""


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_thread_that_hangs_in_the_device_does_not_hold_up_a_stop(
    delivery: str, kafka_settings: KafkaSettings, run_worker: RunWorker
) -> None:
    settings = Settings(kafka=kafka_settings)
    worker = run_worker(kafka_settings, 0.0, delivery=delivery, blocks=True)
    produce(settings, kafka_settings.prompts, [(f"k{i}", b"a prompt") for i in range(8)])
    time.sleep(2.0)
    seconds_to_stop(worker, DRAIN_S + HANG_S)
    assert worker.returncode == 0
    assert committed(settings, kafka_settings.prompts) == 0


def test_a_thread_that_hangs_in_the_device_does_not_keep_the_watchdog_from_ending_the_worker(
    kafka_settings: KafkaSettings, run_worker: RunWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_WORKER__WATCHDOG_TIMEOUT_S", "2")
    worker = run_worker(kafka_settings, 0.0, blocks=True)
    feed_until_ended(worker, Settings(kafka=kafka_settings), 2 + HANG_S)
    assert worker.returncode == 1


def test_a_worker_under_fausts_own_command_line_ends_when_it_cannot_go_on(
    kafka_settings: KafkaSettings, tmp_path: Path
) -> None:
    environ = {**os.environ, **worker_environ(kafka_settings, "none"), "MILLRACE_WORKER__WATCHDOG_TIMEOUT_S": "2"}
    command = [str(Path(sys.executable).with_name("faust")), "-A", "tests.blocked_engine", "worker", "--without-web"]
    with (tmp_path / "faust.log").open("w") as log, subprocess.Popen(command, env=environ, stderr=log) as worker:
        try:
            feed_until_ended(worker, Settings(kafka=kafka_settings), 30 + HANG_S)
            assert worker.returncode == 1, (tmp_path / "faust.log").read_text()
        finally:
            worker.kill()
    assert "no record was served for 2 s" in (tmp_path / "faust.log").read_text()


def feed_until_ended(worker: subprocess.Popen[Any], settings: Settings, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while worker.poll() is None and time.monotonic() < deadline:
        produce(settings, settings.kafka.prompts, [(f"k{i}", b"a prompt") for i in range(8)])
        time.sleep(0.3)
