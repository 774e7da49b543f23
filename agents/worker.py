"""One worker process: start the app, say that it is ready, run until told to stop, leave nothing half done.

SIGTERM, or SIGINT once, stops it: fetching ends, what is held is finished or given back within
``worker.drain_timeout_s``, offsets are committed, the group is left. A second SIGINT ends the process at once; its
uncommitted records are served again by whoever gets their partitions.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import json
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from agents.app import InferenceApp, create_app
from pipeline.errors import MillraceError, TransportError

if TYPE_CHECKING:
    from pipeline.settings import Settings

__all__ = ["run"]

LOG = logging.getLogger("millrace.worker")
EXIT_INTERRUPTED = 130
END_TIMEOUT_S = 2.0


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT.

    Prints one line of JSON on stdout once records are served, and again whenever a promoted version has taken over:
    ``event`` (``ready``), ``models`` and ``metrics_port`` (null without metrics).

    Returns:
        The exit code, 0 after a clean stop.

    Raises:
        MillraceError: the worker could not start, or failed; what is not committed will be served again.
    """
    asyncio.run(_run(settings))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it has stopped: a second one must not make that a failure
    return 0


async def _run(settings: Settings) -> None:
    app = create_app(settings)
    stop = _stop_on_signals()
    status = 1
    try:
        if await _started(app, stop):
            announcing = asyncio.create_task(_announce(app, _metrics_port(app, settings)))
            await _until_stopped(app, stop)
            announcing.cancel()
        status = 0
    finally:
        await app.stop()
        if app.threads_left:
            _end_without_threads(status)


def _end_without_threads(status: int) -> None:
    """Have the process end with ``status``, once it has said why it ends, and not wait for a thread that hangs.

    Python waits for the threads of executors before it calls what is registered for its exit, hence the timer. What
    comes after that, the libraries' own clean-up, is no place to be with a thread still inside one of them.
    """
    LOG.warning("a thread hangs and is left behind: the device does not answer")

    def end() -> None:
        try:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:  # a stream may be closed
            os._exit(status)

    atexit.register(end)
    timer = threading.Timer(END_TIMEOUT_S, end)
    timer.daemon = True
    timer.start()


async def _started(app: InferenceApp, stop: asyncio.Event) -> bool:
    """Start ``app``; False when it was told to stop before it had."""
    starting, told = asyncio.ensure_future(app.start()), asyncio.ensure_future(stop.wait())
    await asyncio.wait([starting, told], return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.wait([starting])
        return False
    await starting
    return True


def _stop_on_signals() -> asyncio.Event:
    stop, interrupts = asyncio.Event(), itertools.count(1)

    def interrupted() -> None:
        # Not when SIGTERM came first: Ctrl-C reaches a worker as SIGINT, and through its supervisor as SIGTERM.
        if next(interrupts) > 1:
            os._exit(EXIT_INTERRUPTED)
        stop.set()

    def terminated(*_: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the worker has stopped
            loop.call_soon_threadsafe(stop.set)

    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGTERM, terminated)  # a handler of the loop's own would end with it, and SIGTERM be fatal
    loop.add_signal_handler(signal.SIGINT, interrupted)
    return stop


def _metrics_port(app: InferenceApp, settings: Settings) -> int | None:
    """Where the metrics are served, from now on; ``None`` for nowhere."""
    if settings.worker.metrics_port < 0:
        return None
    return app.engine.metrics.serve(settings.worker.metrics_host, settings.worker.metrics_port)


async def _announce(app: InferenceApp, port: int | None) -> None:
    """Say what is served, now and whenever that has changed."""
    while True:
        models = [f"{model.name}@{model.version} {model.precision} {model.provider}" for model in app.engine.models]
        sys.stdout.write(json.dumps({"event": "ready", "models": models, "metrics_port": port}) + "\n")
        sys.stdout.flush()
        await app.engine.changed.wait()
        app.engine.changed.clear()


async def _until_stopped(app: InferenceApp, stop: asyncio.Event) -> None:
    """Return when told to stop; raise what made the app fail."""
    told = asyncio.ensure_future(stop.wait())
    ended = asyncio.ensure_future(app.wait_until_stopped())
    waits: list[asyncio.Future[Any]] = [told, ended, *app.failures]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    ended.cancel()
    if app.failure is not None:
        raise app.failure
    if app.crash_reason is not None:
        raise TransportError(f"the Faust app failed: {app.crash_reason!r}") from app.crash_reason
    if not stop.is_set():
        raise MillraceError("the worker ended although nothing asked it to.")
