"""A worker as a child process: settings go in by environment, its JSON lines come out."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from console.supervisor import Ready
from pipeline.settings import Settings

__all__ = ["WorkerProcess", "read_ready", "worker_environ"]

LAST_WORDS_LINES = 12
LAST_WORDS_BYTES = 8_192


def worker_environ(settings: Settings, environ: Mapping[str, str], *, workers: int) -> dict[str, str]:
    """``environ`` for a worker of ``settings.kafka``; several workers share the cores, unless told otherwise."""
    result = {
        **environ,
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "MILLRACE_KAFKA__TOPIC_PREFIX": settings.kafka.topic_prefix,
        "MILLRACE_KAFKA__GROUP_ID": settings.kafka.group_id,
        "MILLRACE_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "MILLRACE_MODELS__SERVE": ",".join(settings.models.serve),
    }
    if workers > 1 and settings.runtime.threads == 0:
        result["MILLRACE_RUNTIME__THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    return result


class WorkerProcess:
    """A running `millrace worker`.

    It has a session of its own, so that Ctrl-C reaches only us and we stop it in order; it ends when we die in
    whatever way, because it sees its standard input close.

    Args:
        environ: its environment.
        log: the file its standard error is appended to, ``None`` for ours.
    """

    def __init__(self, environ: Mapping[str, str], log: Path | None = None) -> None:
        self._log = log
        self._ready: Ready | None = None
        stream: IO[bytes] | None = log.open("ab") if log else None
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "console.main", "worker", "--owned"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=dict(environ),
                start_new_session=True,
            )
        finally:
            if stream:
                stream.close()
        self.pid = self._process.pid
        self._listener = threading.Thread(target=self._listen, name=f"worker-{self.pid}", daemon=True)
        self._listener.start()

    def ready(self) -> Ready | None:
        """What it said it serves, the last time, or ``None`` so far."""
        return self._ready

    def exit_code(self) -> int | None:
        """Its exit status, or ``None`` while it runs."""
        code = self._process.poll()
        if code is not None and self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()
            self._listener.join(1.0)
        return code

    def stop(self) -> None:
        """Ask it to finish what it has and end."""
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End it now."""
        if self._process.poll() is None:
            self._process.kill()

    def last_words(self) -> str:
        """The last lines of its log, if it has one of its own."""
        if self._log is None or not self._log.exists():
            return ""
        tail = self._log.read_bytes()[-LAST_WORDS_BYTES:].decode(errors="replace")
        return "\n".join(tail.splitlines()[-LAST_WORDS_LINES:])

    def _listen(self) -> None:
        """Read all it prints, for a full pipe would stop it; anything but events of JSON is passed over."""
        if self._process.stdout is None:
            raise TypeError("the worker was started without a pipe. This is a bug.")
        with self._process.stdout as lines:
            for line in lines:
                self._ready = read_ready(line) or self._ready


def read_ready(line: bytes) -> Ready | None:
    """What a worker prints when it serves; ``None`` for any other line."""
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        event = msgspec.json.decode(line)
        if isinstance(event, dict) and event.get("event") == "ready":
            return msgspec.convert(event, Ready)
    return None
