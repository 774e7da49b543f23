"""``make chaos``: ``python -m tests.chaos [--seconds 60] [--seed 1] [--report FILE]``.

The seconds are shared by the delivery modes. Ends with status 1 when a promise is broken, and then keeps the logs.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console

from tests.chaos.faults import FAULTS
from tests.chaos.plan import MODES, Plan
from tests.chaos.report import as_json, show
from tests.chaos.run import run

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run, report, and return the exit status."""
    options = _parser().parse_args(arguments)
    plan = Plan(
        seconds=options.seconds / len(options.modes),
        seed=options.seed,
        rate=options.rate,
        modes=tuple(options.modes),
        kinds=tuple(options.faults),
        workers=options.workers,
        brokers=options.brokers,
        group_protocol=options.group_protocol,
        static_members=options.static_members,
        store=options.store,
        debug=options.debug,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is stopped on the way out
    folder = options.keep or Path(tempfile.mkdtemp(prefix="millrace-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    runs = run(plan, folder, sys.stderr)
    kept = all(found.kept for found in runs)
    if options.report:
        options.report.write_bytes(msgspec.json.format(msgspec.json.encode(as_json(plan, runs)), indent=2) + b"\n")
    show(runs, folder, Console())
    if kept and not options.keep:
        shutil.rmtree(folder)
    return 0 if kept else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of faults, shared by the modes")
    parser.add_argument("--seed", type=int, default=1, help="what the faults and the records are drawn from")
    parser.add_argument("--rate", type=float, default=250.0, help="records a second")
    parser.add_argument("--workers", type=int, default=3, help="how many are kept running")
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=3, help="of the cluster")
    parser.add_argument("--group-protocol", choices=("classic", "consumer"), default="classic")
    parser.add_argument("--static-members", action="store_true", help="workers with group.instance.id")
    parser.add_argument("--store", action=argparse.BooleanOptionalAction, default=True, help="a result store")
    parser.add_argument("--debug", default="", help="contexts of librdkafka's log, such as cgrp,topic")
    parser.add_argument("--report", type=Path, help="a file for the JSON report")
    parser.add_argument("--keep", type=Path, help="a new folder for logs and data, kept; else they are kept on failure")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS), metavar="KIND")
    return parser


if __name__ == "__main__":
    sys.exit(main())
