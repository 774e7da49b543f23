"""A lock between processes, on a file. The system lets go of it when its holder dies, so it is never stale."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import BrokerError

__all__ = ["locked"]

POLL_S = 0.05


@contextmanager
def locked(file: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock on ``file``, made if absent. Not reentrant, also not within one thread.

    Raises:
        BrokerError: another process holds it for longer than ``timeout_s`` seconds.
        OSError: the file cannot be opened for writing.
    """
    deadline = time.monotonic() + timeout_s
    with file.open("a+b") as stream:
        while not _try(stream.fileno()):
            if time.monotonic() >= deadline:
                raise BrokerError(
                    f"Another process has been at work in {file.parent} for {timeout_s:.0f} s. Wait for it and try "
                    f"again, or find it with: fuser {file}"
                )
            time.sleep(POLL_S)
        yield


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
