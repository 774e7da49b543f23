"""`millrace worker`: one worker in this process."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import click
import msgspec

from console.cluster import connected_settings
from console.output import json_option

__all__ = ["worker"]


@click.command()
@click.option("--metrics-port", type=click.IntRange(-1, 65_535), help="Port of /metrics; 0 takes a free one, -1 none.")
@click.option("--models", help="Models to serve, NAME or NAME@VERSION, with commas.")
@click.option("--group", help="Consumer group.")
@click.option("--owned", is_flag=True, hidden=True, help="Stop when standard input closes: its owner has died.")
@json_option
def worker(metrics_port: int | None, models: str | None, group: str | None, owned: bool, as_json: bool) -> None:  # noqa: ARG001
    """Consume, infer and publish until stopped; prints one JSON line on standard output when it serves."""
    settings = connected_settings()
    if metrics_port is not None:
        settings = _replaced(settings, "worker", metrics_port=metrics_port)
    if models is not None:
        settings = _replaced(settings, "models", serve=tuple(filter(None, map(str.strip, models.split(",")))))
    if group is not None:
        settings = _replaced(settings, "kafka", group_id=group)
    from agents.worker import run

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the worker drains by handlers of its own
    if owned:
        threading.Thread(target=_stop_when_orphaned, name="owner", daemon=True).start()
    raise click.exceptions.Exit(run(settings))


def _stop_when_orphaned() -> None:
    # Not sys.stdin: a thread that holds its lock makes Python fail when it ends.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _replaced(settings: Any, section: str, **values: Any) -> Any:
    part = msgspec.structs.replace(getattr(settings, section), **values)
    return msgspec.structs.replace(settings, **{section: part})
