"""Kafka's processes: start one, find it again, end it, and end it when its owner dies.

A node is recognised by its command line, which ends with ``kafka.Kafka <its own server.properties>``. A pid file could
name a process that took over a dead node's pid; a command line cannot.

Run as a script this file is the guard of an owned broker: it blocks on its standard input, which closes when the owner
ends in whatever way (SIGKILL too), and then ends the nodes named by its arguments. Linux's PR_SET_PDEATHSIG would not
do: it fires when the *thread* that started the node ends, and macOS has none. It imports the standard library only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["GUARD_DISMISSED", "MAIN_CLASS", "end_nodes", "find_nodes", "reap", "spawn", "spawn_guard"]

MAIN_CLASS = "kafka.Kafka"
GUARD_DISMISSED = b"dismissed"
POLL_S = 0.05
KILL_TIMEOUT_S = 5.0


def spawn(command: Sequence[str], environ: Mapping[str, str], output: Path, *, stdin: int | None = None) -> int:
    """Start ``command`` in a session of its own, so that Ctrl-C here does not reach it, and give its pid.

    Its standard output and error go to the file ``output``, emptied first. ``stdin`` is a descriptor to read from, or
    ``None`` for nothing to read.

    Raises:
        OSError: the command or the file cannot be opened.
    """
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    read = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0) if stdin is None else (os.POSIX_SPAWN_DUP2, stdin, 0)
    actions = [read, (os.POSIX_SPAWN_OPEN, 1, str(output), write, 0o644), (os.POSIX_SPAWN_DUP2, 1, 2)]
    return os.posix_spawn(command[0], list(command), dict(environ), file_actions=actions, setsid=True)


def spawn_guard(properties: Iterable[Path], grace_s: float, output: Path) -> tuple[int, int]:
    """Start the guard of the nodes of these files: its pid, and the descriptor whose closing makes it end them."""
    read_end, write_end = os.pipe()
    try:
        command = [sys.executable, "-I", "-S", __file__, str(grace_s), *map(str, properties)]
        return spawn(command, os.environ, output, stdin=read_end), write_end
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)


def find_nodes(properties: Iterable[Path]) -> dict[Path, int]:
    """The pids of those nodes that are alive. A process that has died but was not waited for does not count."""
    endings = {f"{MAIN_CLASS} {path}": path for path in properties}
    found = {}
    for pid, command in _command_lines():
        start = command.rfind(f"{MAIN_CLASS} ")
        if start >= 0 and (path := endings.get(command[start:])):
            found[path] = pid
    return found


def _command_lines() -> Iterable[tuple[int, str]]:
    if sys.platform != "linux":
        listing = subprocess.run(["/bin/ps", "-axww", "-o", "pid=,command="], capture_output=True, check=True)
        for line in listing.stdout.decode(errors="surrogateescape").splitlines():
            pid, _, command = line.strip().partition(" ")
            yield int(pid), command.strip()
        return
    for folder in os.listdir("/proc"):  # noqa: PTH208 (a Path per process is slow)
        if folder.isdigit():
            with suppress(OSError):
                line = os.fsdecode(Path("/proc", folder, "cmdline").read_bytes())
                yield int(folder), line.rstrip("\0").replace("\0", " ")


def reap(pid: int) -> bool:
    """Let go of a child that has died; whether it has. A live one, or somebody else's, is left alone."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False


def end_nodes(properties: Sequence[Path], grace_s: float) -> list[int]:
    """End the live nodes: SIGTERM, and SIGKILL to those that are still there after ``grace_s`` seconds.

    Returns:
        The pids of those that would not end even so, such as one that hangs in a dead disk; normally none.
    """
    pids: set[int] = set()
    for number, timeout_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_TIMEOUT_S)):
        nodes = find_nodes(properties).values()
        for pid in nodes:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        pids.update(nodes)
        if not _still_there(properties, pids, timeout_s):
            return []
    return sorted(filter(_is_ending, pids))


def _still_there(properties: Sequence[Path], pids: set[int], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while find_nodes(properties) or any(_is_ending(pid) for pid in pids):
        if time.monotonic() >= deadline:
            return True
        time.sleep(POLL_S)
    return False


def _is_ending(pid: int) -> bool:
    """Whether a killed process still holds its files and ports: its command line goes first, its threads last."""
    if reap(pid):
        return False
    if sys.platform != "linux":
        listing = subprocess.run(["/bin/ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False)
        return listing.stdout.strip()[:1] not in (b"", b"Z")
    try:
        fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    state, threads = fields[0], int(fields[17])  # proc(5), fields 3 and 20
    return state != "Z" or threads > 1


def _guard(grace_s: float, properties: Sequence[Path]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if sys.stdin.buffer.read() == GUARD_DISMISSED:
        return
    end_nodes(properties, grace_s)
    # The owner may have been killed between forking a node and its exec, when it did not look like a node yet.
    time.sleep(4 * POLL_S)
    end_nodes(properties, grace_s)


if __name__ == "__main__":
    _guard(float(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
