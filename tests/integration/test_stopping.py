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
    """Starts a worker that takes ``work_s`` per record, and returns when it serves."""
    with ExitStack() as stack:

        def run(kafka: KafkaSettings, work_s: float, *, delivery: str = "at_least_once") -> subprocess.Popen[str]:
            environ = {
                **os.environ,
                **worker_environ(kafka, "none"),
                "MILLRACE_WORKER__DRAIN_TIMEOUT_S": str(DRAIN_S),
                "MILLRACE_WORKER__DELIVERY": delivery,
                "MILLRACE_KAFKA__SESSION_TIMEOUT_S": "6",
            }
            log = stack.enter_context((tmp_path / f"{time.monotonic_ns()}.log").open("w"))
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.engines", str(work_s)],
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
    deadline = time.monotonic() + 15
    while worker.poll() is None and time.monotonic() < deadline:
        produce(settings, kafka_settings.prompts, [(f"k{i}", b"a prompt") for i in range(8)])
        time.sleep(0.3)
    assert worker.returncode == 1
    assert committed(settings, kafka_settings.prompts) == 0
