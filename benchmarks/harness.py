"""What every benchmark shares: its arguments, its broker, its table, its JSON.

A figure is a ratio wherever it can be: both sides run in turn, several times, on the same machine, and the medians are
compared. Absolute figures are printed beside it, with the hardware and the versions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table

__all__ = ["Arguments", "arguments", "broker", "in_turn", "report", "run_alone"]

PACKAGES = ("confluent-kafka", "faust-streaming", "aiokafka", "onnxruntime-gpu", "onnxruntime", "numpy")


class Arguments(argparse.Namespace):
    """``json``: where to write the figures. ``quick``: fewer records and runs. ``side``: run one side, print JSON."""

    json: Path | None
    quick: bool
    side: str | None


def arguments(description: str | None) -> Arguments:
    """The command line of a benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="fewer records and runs: to see that it works")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    return parser.parse_args(namespace=Arguments())


@contextmanager
def broker() -> Iterator[str]:
    """Bootstrap servers of an embedded broker of the benchmark's own."""
    from agents.broker import EmbeddedBroker  # a benchmark without Kafka runs where Kafka's client is not installed
    from pipeline.settings import BrokerSettings

    with tempfile.TemporaryDirectory(prefix="millrace-bench-", ignore_cleanup_errors=True) as folder:
        embedded = EmbeddedBroker(BrokerSettings(data=str(Path(folder) / "broker"), heap_mib=768))
        yield embedded.start(owned=True).bootstrap_servers
        embedded.stop()


def run_alone(module: str, side: str, **environ: str) -> dict[str, float]:
    """Run one side in a process of its own; the JSON object that it prints last."""
    command = [sys.executable, "-m", module, "--side", side]
    done = subprocess.run(command, env={**os.environ, **environ}, stdout=subprocess.PIPE, check=True, timeout=600)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def in_turn(sides: Mapping[str, Callable[[], Mapping[str, float]]], runs: int) -> dict[str, dict[str, float]]:
    """Run the sides one after the other, ``runs`` times; the median of each of their figures."""
    found: dict[str, list[Mapping[str, float]]] = {name: [] for name in sides}
    for number in range(runs):
        for name, side in sides.items():
            found[name].append(side())
            words = ", ".join(f"{figure} {value:,.1f}" for figure, value in found[name][-1].items())
            sys.stderr.write(f"run {number + 1} of {runs}: {name}: {words}\n")
    return {name: _medians(figures) for name, figures in found.items()}


def _medians(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median(figure[name] for figure in figures) for name in figures[0]}


def report(
    name: str, figures: Mapping[str, float], rows: Sequence[tuple[str, str]], arguments: Arguments, note: str = ""
) -> None:
    """Print the table and, where asked, write ``{"name", "figures", "host", "versions"}``."""
    table = Table("what", "figure", title=f"benchmarks.{name}", title_justify="left")
    for what, figure in rows:
        table.add_row(what, figure)
    console = Console()
    console.print(table)
    host, versions = _host(), _versions()
    console.print(f"{host['cpu']}, {host['cores']} cores, {platform.system()}; Python {versions['python']}, " + note)
    if arguments.json is not None:
        document = {"name": name, "figures": dict(figures), "host": host, "versions": versions}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _host() -> dict[str, str | int]:
    return {"cpu": _cpu(), "cores": os.cpu_count() or 0, "system": platform.platform()}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
