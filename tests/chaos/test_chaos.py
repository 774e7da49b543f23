"""A short run of both delivery modes with a few faults of each lane; ``make chaos`` runs longer."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from tests.chaos.plan import MODES, Plan
from tests.chaos.report import as_json, show
from tests.chaos.run import run

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]


def test_every_record_has_its_outcome_whatever_breaks(tmp_path: Path) -> None:
    kinds = ("worker_kill", "zombie", "broker_freeze", "session_hiccup", "failing_session", "full_disk", "clock_jump")
    plan = Plan(seconds=6, seed=1, rate=200, kinds=kinds)
    runs = run(plan, tmp_path)
    show(runs, tmp_path, Console())  # seen when the test fails
    report = as_json(plan, runs)
    assert list(report) == list(MODES)
    for found in runs:
        assert found.verdict.problems == []
        assert found.ending.stuck == ""
        assert found.ending.unclean == []
        assert found.lines["tracebacks"] == 0
        assert found.verdict.sent >= 1_000
        assert sum(found.faults[kind] for kind in kinds) >= 3
    assert report["at_least_once"]["lost"] == 0
    assert report["exactly_once"]["lost"] == report["exactly_once"]["repeated"] == 0
