from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chaos.page import BEGIN, END, ROWS, main, put_into, render

MODE = {
    **dict.fromkeys(ROWS, 0),
    "sent": 54_321,
    "kept": True,
    "faults": {"worker_kill": 12, "poison_record": 1_748},
    "skipped": {"twin": "no static members"},
    "date": "2026-11-24",
    "seconds": 300.0,
    "seed": 1,
    "rate": 250.0,
    "workers": 3,
    "brokers": 3,
    "cores": 2,
    "group_protocol": "classic",
    "static_members": False,
    "store": True,
    "versions": {"commit": "abc1234", "Kafka": "4.2.1"},
}
REPORT = {"at_least_once": MODE, "exactly_once": {**MODE, "kept": False, "lost": 3, "faults": {"worker_kill": 13}}}


def test_every_count_and_fault_of_each_mode_is_in_the_page() -> None:
    text = render(REPORT)
    assert "600 seconds of faults, seed 1" in text
    assert "commit abc1234, Kafka 4.2.1" in text
    assert "at_least_once kept, exactly_once BROKEN" in text
    assert "| records sent | 54,321 | 54,321 |" in text
    assert "| **records without an outcome** | 0 | 3 |" in text
    assert "| worker kill | 12 | 13 |" in text
    assert "| poison record | 1,748 | 0 |" in text
    assert "| twin | none: no static members | none: no static members |" in text


def test_the_report_takes_the_place_of_the_last_one(tmp_path: Path) -> None:
    page, report = tmp_path / "page.md", tmp_path / "report.json"
    page.write_text(f"# Chaos\n\n{BEGIN}\nan old one\n{END}\n\nMore.\n")
    report.write_text(json.dumps(REPORT))
    main([str(report), "--into", str(page)])
    assert page.read_text() == f"# Chaos\n\n{BEGIN}\n{render(REPORT)}{END}\n\nMore.\n"


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no <!-- report -->"):
        put_into("# Chaos\n", "text")
