"""The report of a run: JSON for programs, a table for people, and what stood around each broken promise."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from agents.broker.jars import KAFKA_VERSION
from tests.chaos.brokers import OFFSETS_DUMP
from tests.chaos.evidence import Place
from tests.chaos.plan import Plan
from tests.chaos.run import ModeRun
from tests.chaos.trail import group_traces, worker_traces

__all__ = ["as_json", "show"]

SHOWN_PROBLEMS = 10
SHOWN_TRAILS = 3
COUNTS = {
    "sent": "records on the input topics",
    "outcomes": "outcomes",
    "lost": "records without an outcome",
    "repeated": "outcomes beyond the first of a record",
    "recalled": "of these, not computed again",
    "unequal": "records with unequal outcome ids",
    "changed": "records with unequal outputs",
    "shared": "records with another's outcome id",
    "wrong": "outcomes that do not fit their record",
    "strays": "outcomes of no record",
    "disordered": "outcomes against the order of their key",
    "blamed": "good records that failed",
    "letters": "dead letters",
    "letters_missing": "errors without the original in a dead letter",
    "letters_altered": "dead letters with other bytes than their record",
    "letters_repeated": "repeated dead letters",
    "letters_stray": "dead letters without an error",
    "unsent": "acknowledged records that Kafka lost",
}


def as_json(plan: Plan, runs: Sequence[ModeRun]) -> dict[str, Any]:
    """By delivery mode: ``sent``, ``outcomes``, ``lost``, ``repeated``, ``faults`` by kind, and the rest."""
    return {run.mode: _mode_json(plan, run) for run in runs}


def _mode_json(plan: Plan, run: ModeRun) -> dict[str, Any]:
    counts: dict[str, Any] = msgspec.to_builtins(run.verdict)
    return {
        **{name: counts[name] for name in ("sent", "outcomes", "lost", "repeated")},
        "faults": run.faults,
        "kept": run.kept,
        **counts,
        "stuck": run.ending.stuck,
        "unclean": run.ending.unclean,
        "skipped": run.skipped,
        **run.lines,
        "markers_skipped": run.markers_skipped,
        "counters": run.counters,
        "worker_exits": {str(code): count for code, count in sorted(run.exits.items())},
        "caught_up_s": round(run.ending.caught_up_s, 1),
        "seconds": plan.seconds,
        "seed": plan.seed,
        "rate": plan.rate,
        "date": datetime.now(UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": _versions(),
        **{name: getattr(plan, name) for name in ("workers", "brokers", "group_protocol", "static_members", "store")},
    }


def _versions() -> dict[str, str]:
    """Of what was tested; the commit ends in a plus when files differ from it."""
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    commit += "+" if _git("status", "--porcelain", "--untracked-files=no") else ""
    libraries = {name: metadata.version(name) for name in ("confluent-kafka", "faust-streaming")}
    return {"commit": commit, "Kafka": KAFKA_VERSION, "Python": platform.python_version(), **libraries}


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip()


def show(runs: Sequence[ModeRun], folder: Path, console: Console) -> None:
    """Print the table, and for a broken promise its records with the timeline around them."""
    console.print(_counts(runs), _faults(runs))
    for run in runs:
        for line in [*_complaints(run), *_trails(run, folder)]:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        if not run.kept:
            console.print(f"The logs are in {folder / run.mode} and {folder / 'brokers'}", markup=False, soft_wrap=True)


def _counts(runs: Sequence[ModeRun]) -> Table:
    table = Table("what a reader sees", *(run.mode for run in runs))
    for name, words in COUNTS.items():
        table.add_row(words, *(f"{getattr(run.verdict, name):,}" for run in runs))
    for status in ("ok", "error", "expired"):
        table.add_row(f"outcomes: {status}", *(f"{run.verdict.statuses.get(status, 0):,}" for run in runs))
    table.add_row("seconds to catch up", *(f"{run.ending.caught_up_s:.1f}" for run in runs))
    for name in runs[0].lines:
        table.add_row(f"in the workers' logs: {name.replace('_', ' ')}", *(f"{run.lines[name]:,}" for run in runs))
    for name in sorted({name for run in runs for name in run.counters if "store" in name}):
        table.add_row(name, *(f"{run.counters.get(name, 0):,.0f}" for run in runs))
    table.add_row("promises", *("kept" if run.kept else "BROKEN" for run in runs))
    return table


def _faults(runs: Sequence[ModeRun]) -> Table:
    table = Table("faults", *(run.mode for run in runs))
    for kind in runs[0].faults:
        table.add_row(kind.replace("_", " "), *(str(run.faults.get(kind, 0)) for run in runs))
    exits = sorted({code for run in runs for code in run.exits})
    for code in exits:
        table.add_row(f"workers ended with {code}", *(str(run.exits.get(code, 0)) for run in runs))
    return table


def _complaints(run: ModeRun) -> Iterator[str]:
    yield from (
        f"{run.mode}: {words}" for words in ([run.ending.stuck] if run.ending.stuck else []) + run.ending.unclean
    )
    if run.markers_skipped:
        yield f"{run.mode}: Kafka ended {run.markers_skipped} transactions without their markers (KAFKA-20734)"
    if run.crashes:
        yield f"{run.mode}: {run.crashes} workers crashed"
    yield from (f"{run.mode}: no {kind}: {reason}" for kind, reason in run.skipped.items())
    for problem in run.verdict.problems[:SHOWN_PROBLEMS]:
        topic, partition, offset = problem.place
        yield f"\n{run.mode}: {problem.promise}: {topic}/{partition}@{offset}, sent at {problem.at_ms}: {problem.seen}"
        yield from (
            f"  {event.at_ms - problem.at_ms:+7d} ms  {event.what}: {event.detail}"
            for event in run.timeline.around(problem.at_ms)
        )
    if (more := len(run.verdict.problems) - SHOWN_PROBLEMS) > 0:
        yield f"\n{run.mode}: and {more} more, in the report"


def _trails(run: ModeRun, folder: Path) -> Iterator[str]:
    """Of the first partitions with a broken promise, all that was said, so that a log of the console explains it."""
    dumps = {file.parent.name: file.read_text(errors="replace") for file in folder.glob(f"brokers/*/{OFFSETS_DUMP}")}
    for topic, partition in _partitions([problem.place for problem in run.verdict.problems])[:SHOWN_TRAILS]:
        yield f"\n{run.mode}: {topic}/{partition}, by its workers and by the group's log:"
        said = worker_traces((folder / run.mode).glob("*.log"), topic, partition)
        for trace in sorted([*said, *group_traces(dumps, topic, partition)]):
            yield f"  {trace.at_ms}  {trace.who}: {trace.what}"


def _partitions(places: Sequence[Place]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((topic, partition) for topic, partition, _ in places))
