"""Real worker processes for tests."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import IO, Any, NamedTuple

import pytest

from pipeline.settings import KafkaSettings, Settings
from tests.records import committed
from tests.waiting import wait_until

__all__ = ["TINY", "StartWorker", "Worker", "running_worker", "wait_until_committed", "worker_environ"]

WORKER = ("-m", "console.main", "worker")
TINY = "dialogues-tiny,digits-tiny"


class Worker(NamedTuple):
    """A worker that serves: its process, its ready line, how long that took, and a queue of what it prints later."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]
    ready_after_s: float
    lines: Queue[str]


StartWorker = Callable[..., Worker]


def wait_until_committed(worker: Worker, settings: Settings, topic: str, count: int) -> None:
    """Return once ``count`` records of ``topic`` are committed; fails when ``worker`` ends before."""

    def enough() -> bool:
        status = worker.process.poll()
        assert status is None, f"the worker ended with {status}"
        return committed(settings, topic) >= count

    wait_until(enough, f"{count} records of {topic} are committed", timeout_s=180, poll_s=0.01)


def worker_environ(kafka: KafkaSettings, models: str) -> dict[str, str]:
    return {
        "MILLRACE_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "MILLRACE_KAFKA__TOPIC_PREFIX": kafka.topic_prefix,
        "MILLRACE_KAFKA__GROUP_ID": kafka.group_id,
        "MILLRACE_MODELS__SERVE": models,
        "MILLRACE_RUNTIME__PROVIDER": "cpu",
        "MILLRACE_WORKER__METRICS_PORT": "0",
    }


@contextmanager
def running_worker(
    python: Path | str, environ: Mapping[str, str], folder: Path, command: Sequence[str] = WORKER
) -> Iterator[Worker]:
    started = time.monotonic()
    with (folder / "worker.log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [str(python), *command],
            env=dict(environ), cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        try:
            lines: Queue[str] = Queue()
            ready = _ready_line(process, lines, timeout_s=120)
            if ready is None:
                log.seek(0)
                pytest.fail(f"the worker never said that it is ready; it ended with {process.poll()}:\n{log.read()}")
            yield Worker(process, ready, time.monotonic() - started, lines)
        finally:
            _stop(process)


def _ready_line(process: subprocess.Popen[str], lines: Queue[str], timeout_s: float) -> dict[str, Any] | None:
    """The first line with the event "ready", or None when the worker ends or the time is over before it."""
    assert process.stdout is not None
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        try:
            line = lines.get(timeout=left)
        except Empty:
            return None
        if not line:
            return None
        event: dict[str, Any] = json.loads(line)
        if event.get("event") == "ready":
            return event
    return None


def _pump(stream: IO[str], lines: Queue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")


def _stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    finally:
        if process.stdout is not None:
            process.stdout.close()
