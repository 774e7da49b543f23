"""`millrace demo --tiny --json` as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

COMMAND = [sys.executable, "-m", "console.main", "demo", "--tiny", "--json"]
PROMISED = {
    "records_in",
    "outcomes",
    "ok",
    "error",
    "expired",
    "accuracy",
    "precision",
    "mean_batch_size",
    "latency_p50_ms",
    "latency_p95_ms",
    "records_per_s",
}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MILLRACE_", "KAFKA_"))}
    return {**kept, "TMPDIR": str(tmp_path)}


@pytest.fixture
def figures(environ: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(COMMAND, env=environ, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


def running(mark: str) -> list[str]:
    listing = subprocess.run(["ps", "-axww", "-o", "args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if mark in line and not line.startswith("ps ")]


def test_every_record_of_the_tiny_demo_has_an_ok_outcome_and_the_digits_are_read(
    figures: dict[str, Any], tmp_path: Path
) -> None:
    assert set(figures) >= PROMISED
    assert figures["records_in"] == figures["outcomes"] == figures["ok"] == 384
    assert (figures["error"], figures["expired"], figures["missing"]) == (0, 0, [])
    assert figures["accuracy"] >= 0.9
    assert figures["precision"] == "int8"
    assert figures["mean_batch_size"] >= 1
    assert 0 < figures["latency_p50_ms"] <= figures["latency_p95_ms"]
    assert figures["records_per_s"] > 0
    assert running(str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_the_demo_without_a_traceback_and_leaves_nothing_running(
    environ: dict[str, str], tmp_path: Path
) -> None:
    demo = subprocess.Popen(COMMAND, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: running(str(tmp_path)), "the demo starts its Kafka", timeout_s=300, poll_s=0.1)
    demo.send_signal(signal.SIGINT)
    out, err = demo.communicate(timeout=120)
    assert (demo.returncode, out) == (1, "")
    assert "Traceback" not in err
    assert "Interrupted." in err
    assert running(str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []
