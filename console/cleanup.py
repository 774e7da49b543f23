"""Cleaning up in order, whatever happens meanwhile."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

__all__ = ["orderly_exit"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def orderly_exit() -> Iterator[ExitStack]:
    """An exit stack that a second Ctrl-C does not cut short: what was started is stopped, then the first one counts."""
    stack = ExitStack()
    try:
        yield stack
    finally:
        with _undisturbed():
            stack.close()


@contextmanager
def _undisturbed() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
