"""Processes by pid and start time, so that a pid that was given to another process is never taken for ours."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from msgspec import Struct

__all__ = ["ProcessId", "end_all"]

POLL_S = 0.05
KILL_TIMEOUT_S = 5.0


class ProcessId(Struct, frozen=True, kw_only=True):
    """One process for ever. ``started`` is its start time as the system tells it; only equality matters."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Self:
        """The process that has ``pid`` now; ``started`` is empty when there is none such."""
        return cls(pid=pid, started=_start_time(pid))

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return bool(self.started) and _start_time(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if this very process still runs."""
        if self.alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def end_all(processes: Sequence[ProcessId], grace_s: float) -> bool:
    """SIGTERM, then SIGKILL after ``grace_s`` seconds; whether all have ended."""
    for number, timeout_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_TIMEOUT_S)):
        for process in processes:
            process.signal(number)
        deadline = time.monotonic() + timeout_s
        while any(process.alive() for process in processes) and time.monotonic() < deadline:
            time.sleep(POLL_S)
    return not any(process.alive() for process in processes)


def _start_time(pid: int) -> str:
    """The start time of a live process, or empty. A process that ended and was not waited for does not live."""
    if Path("/proc/self/stat").exists():
        try:
            # proc(5): the name may hold spaces and parentheses; after the last one come state (3) ... starttime (22).
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return ""
        return "" if fields[0] in "ZX" else f"{boot}/{fields[19]}"
    listing = subprocess.run(["/bin/ps", "-o", "state=,lstart=", "-p", str(pid)], capture_output=True, text=True)
    state, _, started = listing.stdout.strip().partition(" ")
    return "" if state.startswith("Z") else started.strip()
