"""A worker process when things are not as they should be: it says what is wrong, and it ends."""

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

from pipeline.settings import KafkaSettings
from tests.workers import worker_environ

pytestmark = pytest.mark.integration


RunWorker = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run_worker(tmp_path: Path) -> Iterator[RunWorker]:
    """Starts a worker in an empty folder; whatever still runs at the end of the test is killed."""
    with ExitStack() as stack:

        def run(settings: KafkaSettings, **environ: str) -> subprocess.Popen[str]:
            variables = {**os.environ, **worker_environ(settings, "digits-tiny"), **environ}
            command = [sys.executable, "-m", "console.main", "worker"]
            process = subprocess.Popen(
                command, env=variables, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield run


def test_a_worker_without_its_topics_ends_and_says_how_to_make_them(
    kafka: str, topic_prefix: str, run_worker: RunWorker
) -> None:
    worker = run_worker(KafkaSettings(bootstrap_servers=kafka, topic_prefix=topic_prefix))
    _, said = worker.communicate(timeout=120)
    assert worker.returncode == 1
    assert f"no topic {topic_prefix}prompts" in said
    assert "millrace topics" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_worker_without_kafka_ends_and_says_where_it_looked(delivery: str, run_worker: RunWorker) -> None:
    nowhere = KafkaSettings(bootstrap_servers="127.0.0.1:1")
    worker = run_worker(nowhere, MILLRACE_WORKER__DELIVERY=delivery)
    _, said = worker.communicate(timeout=120)
    assert worker.returncode == 1
    assert "127.0.0.1:1" in said
    assert "Traceback" not in said


def test_a_worker_leaves_nothing_in_the_folder_it_runs_in(
    kafka_settings: KafkaSettings, run_worker: RunWorker, tmp_path: Path
) -> None:
    worker = run_worker(kafka_settings)
    assert worker.stdout is not None
    assert "ready" in worker.stdout.readline()
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=120)
    assert worker.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_worker_told_to_stop_while_it_starts_stops(kafka_settings: KafkaSettings, run_worker: RunWorker) -> None:
    worker = run_worker(kafka_settings)
    time.sleep(1.0)
    worker.send_signal(signal.SIGTERM)
    _, said = worker.communicate(timeout=120)
    assert worker.returncode in (0, 1, -signal.SIGTERM), said
    assert "Traceback" not in said
