"""A bound on every run of a graph: one that loops without end would hold its thread, and with it the device, for ever.

ONNX Runtime looks between any two nodes whether the run is to end (``RunOptions.terminate``). So a run is only noted
while it goes on, which costs next to nothing, and one thread looks now and then who is still there. Of the time since
it looked last only so much counts that a process that was frozen for an hour ends no run for that. A kernel that hangs
is out of its reach.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from pipeline.settings import WorkerSettings

__all__ = ["PATIENT", "Bound", "Options", "Run", "RunLimit", "end_runs", "limit_of", "runs_end_on_signals", "serving"]

LOOKS = 8
"""Within the limit. Up to twice the time between two of them counts: on a machine under load a look comes late."""
SHARE = 0.5
"""Of the watchdog's time: it stays the last resort, for what does not end when it is told to."""
ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """How long one run may take.

    Attributes:
        limit_s: a run is ended after that, within an eighth more.
        advice: what to do about one that was.
    """

    limit_s: float
    advice: str

    def broken_by(self, graph: str) -> str:
        """What is said of a run that was ended."""
        return (
            f"the graph {graph} ran longer than {self.limit_s:g} s and was ended: it loops without end on what it was "
            f"given, or is far too slow for this machine. {self.advice}"
        )


PATIENT = Bound(limit_s=300.0, advice="Leave out the sample that it does so on, or build the model from another graph.")
"""Where models are made and measured: longer than any run takes."""


def serving(worker: WorkerSettings) -> Bound:
    """Where records are served: half of the watchdog's time."""
    return Bound(
        limit_s=worker.watchdog_timeout_s * SHARE,
        advice="Serve another version of the model; if it is only slow, raise worker.watchdog_timeout_s, half of which "
        "a run may take, or lower batching.max_batch_size.",
    )


class Options(Protocol):
    """ONNX Runtime's of one run."""

    terminate: bool


@dataclass(slots=True, eq=False)
class Run:
    """One that goes on.

    Attributes:
        options: of this run alone, so that nothing else ends when it is ended late.
        age_s: since it was first seen; ``None`` before.
        overdue: whether it was ended for taking too long.
    """

    options: Options
    age_s: float | None = None
    overdue: bool = False


class RunLimit:
    """The runs that go on under one limit.

    Args:
        limit_s: how long they may take.

    Attributes:
        runs: them; whoever runs puts his in, and takes it out.
    """

    def __init__(self, limit_s: float) -> None:
        self.runs: set[Run] = set()
        self._limit_s = limit_s

    def look(self, passed_s: float) -> None:
        """End what has taken too long. ``passed_s`` is the time since the last look."""
        counted_s = min(passed_s, 2 * self._limit_s / LOOKS)
        for run in self.runs.copy():
            run.age_s = 0.0 if run.age_s is None else run.age_s + counted_s
            if run.age_s >= self._limit_s:
                run.overdue = True
                run.options.terminate = True

    def watch(self) -> None:
        """Look for ever."""
        never, looked_at = threading.Event(), time.monotonic()
        while not never.wait(min(self._limit_s / LOOKS, threading.TIMEOUT_MAX)):
            before, looked_at = looked_at, time.monotonic()
            self.look(looked_at - before)


LIMITS: list[RunLimit] = []


@cache
def limit_of(limit_s: float) -> RunLimit:
    """That of all runs of this process that may take ``limit_s``; its thread is started with it."""
    limit = RunLimit(limit_s)
    LIMITS.append(limit)
    threading.Thread(target=limit.watch, name=f"millrace-limit-{limit_s:g}s", daemon=True).start()
    return limit


def end_runs() -> None:
    """End every run of this process that goes on."""
    for limit in LIMITS:
        for run in limit.runs.copy():
            run.options.terminate = True


@contextmanager
def runs_end_on_signals() -> Iterator[None]:
    """In the context, Ctrl-C, SIGTERM and SIGHUP end what runs, so that the main thread comes to hear of them.

    Python calls its handlers in the main thread, between two of its own instructions: never while that waits for a run.
    But it writes the signal's number down at once, for a thread to read. For the main thread; does nothing in others.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    reading = threading.Thread(target=_end_on_signals, args=(reader,), name="millrace-signals", daemon=True)
    reading.start()
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()
        reading.join()
        reader.close()


def _end_on_signals(reader: socket.socket) -> None:
    while numbers := reader.recv(64):
        if not ENDING.isdisjoint(numbers):
            end_runs()
