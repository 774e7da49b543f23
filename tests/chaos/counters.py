"""What the workers count themselves, for people to read: the verdict does not use it."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry

__all__ = ["add_up", "count_lines", "snapshot"]

LINES = {
    "tracebacks": re.compile(r"Traceback \(most recent"),
    "partitions_lost": re.compile(r"WARNING millrace\.delivery: lost "),
    "fenced": re.compile(r"INFO chaos\.worker: transaction .*([Ff]enced|generation id is not valid|[Mm]ember)"),
    "instances_fenced": re.compile(r"ERROR chaos\.worker: .*(fenced by other consumer|FENCED_INSTANCE_ID)"),
}
"""Words in the workers' logs, and what a line that has them is counted as."""


def snapshot(registry: CollectorRegistry) -> dict[str, float]:
    """The counters of a worker by name, over all labels."""
    totals: dict[str, float] = defaultdict(float)
    for metric in registry.collect():
        if metric.type == "counter" and metric.name.startswith("millrace_"):
            totals[metric.name] += sum(sample.value for sample in metric.samples if sample.name.endswith("_total"))
    return dict(totals)


def add_up(files: Iterable[Path]) -> dict[str, float]:
    """The sum of the snapshots in ``files``. A worker that was killed had counted a little more."""
    totals: dict[str, float] = defaultdict(float)
    for file in files:
        for name, count in json.loads(file.read_bytes()).items():
            totals[name] += count
    return dict(sorted(totals.items()))


def count_lines(logs: Iterable[Path]) -> dict[str, int]:
    """By the names of :data:`LINES`, how many lines of ``logs`` say so."""
    counts = dict.fromkeys(LINES, 0)
    for log in logs:
        for line in log.read_text(errors="replace").splitlines():
            for name, words in LINES.items():
                counts[name] += words.search(line) is not None
    return counts
