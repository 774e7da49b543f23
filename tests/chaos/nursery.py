"""Forks chaos workers: ``python -m tests.chaos.nursery``, driven by lines of JSON on standard input.

A storm of workers that join and leave each second would drown two cores in imports. This process imports everything
once and forks, so that a worker starts in a moment and is a process of its own all the same.

In: one :class:`~tests.chaos.worker.Order` a line. Out: ``{"started": name, "pid": ...}`` and
``{"ended": pid, "status": ...}``, the status as ``subprocess`` has it: minus the signal for one that was killed. When
standard input closes (its owner has ended, however) every worker is killed, stopped ones too.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import traceback
from contextlib import suppress

from tests.chaos.worker import Order, read_order, serve

__all__ = ["main"]

POLL_S = 0.05


def main() -> None:
    """Fork until standard input closes."""
    children: set[int] = set()
    pending = b""
    try:
        while True:
            _reap(children)
            if not select.select([0], [], [], POLL_S)[0]:
                continue
            received = os.read(0, 65_536)
            if not received:
                return
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                order = read_order(line)
                pid = _fork(order)
                children.add(pid)
                _say(started=order.name, pid=pid)
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)  # ours until it is waited for, so the pid is nobody else's
            os.waitpid(pid, 0)


def _say(**words: object) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def _reap(children: set[int]) -> None:
    for pid in list(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            children.discard(pid)
            with suppress(BrokenPipeError):
                _say(ended=pid, status=os.waitstatus_to_exitcode(status))


def _fork(order: Order) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        _become(order)
        code = serve(order)
    except BaseException:  # a fork must never get back into the loop of its parent
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _become(order: Order) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)


if __name__ == "__main__":
    main()
