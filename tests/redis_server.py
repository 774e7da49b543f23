"""A real Redis for tests, on a socket of its own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from redis import Redis, RedisError

from tests.waiting import wait_until

__all__ = ["RedisServer", "running_redis"]


class RedisServer:
    """Started and ended as often as a test wants; it keeps nothing between two lives."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{folder}/redis.sock"

    def start(self, *options: str) -> None:
        socket = ["--port", "0", "--unixsocket", f"{self._folder}/redis.sock", "--dir", str(self._folder)]
        self._process = subprocess.Popen(
            ["redis-server", *socket, "--save", "", "--appendonly", "no", *options], stdout=subprocess.DEVNULL
        )
        wait_until(self._answers, "redis-server answers")

    def _answers(self) -> bool:
        with Redis.from_url(self.url) as client, suppress(RedisError):
            return bool(client.ping())
        return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    """A started server; skips the test where there is none to start."""
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server here: apt-get install redis-server")
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:  # pytest's own may be too long for a socket's path
        server = RedisServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
