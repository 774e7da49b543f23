"""`millrace up --detach`: the same command again in a session of its own, watched until it is ready."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from console.output import Output
from console.state import StateFile
from pipeline.errors import MillraceError

__all__ = ["detach"]

POLL_S = 0.1
ENDING_LINES = 15


def detach(workers: int, state: StateFile, output: Output) -> None:
    """Start `millrace up` in the background and relay its log until all is ready.

    Raises:
        MillraceError: it ended before; the message holds the end of its log.
    """
    with state.locked():  # makes the folder, or says why it cannot
        pass
    with state.log.open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "console.main", "up", "--workers", str(workers)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _watch(child, state, output)
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        raise


def _watch(child: subprocess.Popen[bytes], state: StateFile, output: Output) -> None:
    lines = _new_lines(state.log)
    while not _ready(child, state):
        for line in next(lines):
            output.say(f"  {line}", style="dim")
        if child.poll() is not None:
            break
        time.sleep(POLL_S)
    if child.poll() is not None and not state.held():
        ending = "\n".join(state.log.read_text(errors="replace").splitlines()[-ENDING_LINES:])
        raise MillraceError(f"`millrace up` ended with exit status {child.returncode}:\n{ending}")


def _ready(child: subprocess.Popen[bytes], state: StateFile) -> bool:
    found = state.read()
    return found is not None and found.ready and found.supervisor.pid == child.pid


def _new_lines(log: Path) -> Iterator[list[str]]:
    """Each time, the lines that were completed since the last time."""
    with log.open(encoding="utf-8", errors="replace") as stream:
        rest = ""
        while True:
            *lines, rest = (rest + stream.read()).split("\n")
            yield lines
