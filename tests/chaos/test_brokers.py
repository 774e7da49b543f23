"""What is kept of the brokers, without any."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos import brokers
from tests.chaos.brokers import OFFSETS_DUMP, Brokers


def test_a_dump_that_does_not_end_in_time_costs_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_long(command: list[str], *, stdout: Any, timeout: float, **_: Any) -> None:
        stdout.write(b"a part")
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(brokers, "ensure_jars", lambda *_: ())
    monkeypatch.setattr(brokers, "find_java", lambda: SimpleNamespace(program="java"))
    monkeypatch.setattr(subprocess, "run", too_long)
    for node in ("node-1", "node-2"):
        (tmp_path / node).mkdir()
    Brokers(tmp_path, 1).dump_offsets()
    assert {dump.parent.name: dump.read_bytes() for dump in tmp_path.glob(f"*/{OFFSETS_DUMP}")} == {
        "node-1": b"a part",
        "node-2": b"a part",
    }
