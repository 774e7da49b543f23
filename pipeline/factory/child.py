"""Runs what may never come back, or may take its process with it, in a process of its own.

ONNX Runtime does not look up from a graph while it runs it: neither Ctrl-C nor SIGTERM reaches Python meanwhile. Who
waits for another process hears them at once, and that process can be ended whatever it does.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from pipeline.errors import ModelError

__all__ = ["answer"]

T = TypeVar("T")
LIMIT_S = 300.0
"""Longer than any model takes to load and to run a few times."""
SPARE_S = 60


def answer(what: str, function: Callable[..., T], *args: Any) -> T:
    """What ``function`` returns for ``args`` in a process of its own; what it raises is raised here.

    The process has ended when this returns or raises, also at Ctrl-C and SIGTERM.

    Args:
        what: names what runs, for messages.
        function: of a module, so that the other process finds it; it and all that goes in and out can be pickled.
        args: of it.

    Raises:
        ModelError: there is no answer within :data:`LIMIT_S`, or the process died.
    """
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    child = spawn.Process(target=_send, args=(sender, LIMIT_S, function, args), daemon=True)
    try:
        _start(child)
        sender.close()
        found: T = _received(what, receiver, child)
        return found
    finally:
        if child.pid is not None:
            child.kill()
            child.join()
        child.close()
        receiver.close()


def _start(child: Any) -> None:
    # A terminal sends Ctrl-C to both, and this process alone says what it means.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        child.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _received(what: str, receiver: Connection, child: Any) -> Any:
    if not receiver.poll(LIMIT_S):
        raise ModelError(
            f"{what} did not answer within {LIMIT_S:g} s: it is far too slow for this machine, or loops without end."
        )
    try:
        found = receiver.recv()
    except EOFError:
        child.join()
        how = f"signal {-child.exitcode}" if child.exitcode < 0 else f"exit status {child.exitcode}"
        raise ModelError(
            f"{what} ended the process that it ran in ({how}). After signal 9 the memory was probably too small."
        ) from None
    if isinstance(found, Exception):
        raise found
    return found


def _send(sender: Connection, limit_s: float, function: Callable[..., object], args: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # What keeps that thread from running, as native code may that holds Python's lock, does not run for ever either.
    signal.setitimer(signal.ITIMER_REAL, limit_s + SPARE_S)
    try:
        found = function(*args)
    except Exception as error:
        found = error
    sender.send(found)


def _end_with_parent() -> None:
    """End this process once the one that waits for it is gone, which a kill does not let say so."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
