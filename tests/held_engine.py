"""A worker process whose device is stopped: no request is answered until the file of its argument is there.

It prints two lines of JSON: ``before_bytes`` when it has started, what the process had in memory before its first
record, and ``held_bytes`` when it ends, the most that it counted as held of its topic of images.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from agents.app import InferenceApp, create_app
from pipeline.fake_engine import FakeEngine
from pipeline.settings import load_settings
from schemas.messages import InferenceRequest, Outcome, TokenPiece


class HeldEngine(FakeEngine):
    """Answers when ``release`` exists."""

    def __init__(self, release: Path) -> None:
        super().__init__()
        self._release = release

    async def start(self) -> None:
        say(before_bytes=resident_bytes())

    async def submit(self, request: InferenceRequest, *, emit: Callable[[TokenPiece], None] | None = None) -> Outcome:
        while not self._release.exists():  # noqa: ASYNC110 - the test is another process
            await asyncio.sleep(0.05)
        return await super().submit(request, emit=emit)


def say(**figures: int) -> None:
    """Print ``figures``."""
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


def resident_bytes() -> int:
    """What this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def watch(app: InferenceApp) -> int:
    """The most bytes held of images until stdin closes."""
    flow, most = app._flows[app.millrace.kafka.images], 0
    closed = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    while not closed.done():
        most = max(most, flow.bytes)
        await asyncio.sleep(0.005)
    return most


async def main(release: Path) -> None:
    app = create_app(load_settings(), HeldEngine(release))  # type: ignore[arg-type]
    await app.start()
    held_bytes = await watch(app)
    await app.stop()
    say(held_bytes=held_bytes)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
