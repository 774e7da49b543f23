"""The workers of a run: how many there should be, what is done to them, and who replaces the dead."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pipeline.settings import Settings
from tests.chaos.control import Control, write_control
from tests.chaos.timeline import Timeline
from tests.chaos.worker import Order

__all__ = ["Worker", "Workers"]

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 60.0
REPLACE_AFTER_S = 0.5


@dataclass(eq=False)
class Worker:
    """One process; ``member`` is its ``group.instance.id``, if it has one, which its replacement inherits."""

    name: str
    pid: int
    folder: Path
    replaced: bool
    member: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    status: int | None = None
    started_at: float = field(default_factory=time.monotonic)
    control: Control = field(default_factory=Control)

    def tell(self, **changes: float) -> None:
        """Change its control file."""
        self.control = msgspec.structs.replace(self.control, serial=self.control.serial + 1, **changes)
        write_control(self.folder / f"{self.name}.control", self.control)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended, of which the nursery may not have told yet."""
        if self.status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Workers:
    """Starts workers through a nursery and keeps ``count`` of them, replacing those that end.

    Args:
        count: how many there should be; workers of a storm come on top.
        settings: of every worker.
        folder: for control files and logs.
        timeline: hears of every start and end.
        static: whether those that are replaced are static members of the group.
    """

    def __init__(
        self, count: int, settings: Settings, folder: Path, timeline: Timeline, *, static: bool = False
    ) -> None:
        self.exits: Counter[int] = Counter()
        self._members = [f"member-{number}" if static else "" for number in range(1, count + 1)]
        self._settings = settings
        self._folder = folder
        self._timeline = timeline
        self._workers: dict[int, Worker] = {}
        self._started: dict[str, asyncio.Future[int]] = {}
        self._number = 0
        self._closing = False
        self._nursery: asyncio.subprocess.Process | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def alive(self) -> list[Worker]:
        """Those that have not ended, oldest first; a stopped one counts."""
        return list(self._workers.values())

    @property
    def steady(self) -> list[Worker]:
        """Those of :attr:`alive` that are replaced when they end."""
        return [worker for worker in self._workers.values() if worker.replaced]

    async def open(self) -> None:
        """Start the nursery and the workers."""
        environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with (self._folder / "nursery.log").open("ab") as log:
            nursery = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.chaos.nursery"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                cwd=ROOT,
                env=environ,
            )
        self._nursery = nursery
        self._spawn(self._listen(nursery))
        await asyncio.gather(*(self.start(replaced=True, member=member) for member in self._members))

    async def start(self, *, replaced: bool, member: str = "") -> Worker:
        """One more worker; ``replaced`` says whether another takes its place, as the same ``member``, when it ends."""
        self._number += 1
        name = f"w{self._number}"
        kafka = msgspec.structs.replace(self._settings.kafka, group_instance_id=member)
        settings = msgspec.structs.replace(self._settings, kafka=kafka)
        order = Order(name=name, folder=str(self._folder), settings=settings)
        write_control(order.control, Control())
        self._started[name] = asyncio.get_running_loop().create_future()
        if self._nursery is None or self._nursery.stdin is None:
            raise RuntimeError("start a worker after open().")
        self._nursery.stdin.write(msgspec.json.encode(order) + b"\n")
        pid = await asyncio.wait_for(self._started[name], START_TIMEOUT_S)
        worker = Worker(name, pid, self._folder, replaced, member)
        self._workers[pid] = worker
        self._timeline.note("worker started", f"{name} (pid {pid})")
        return worker

    async def stop(self, timeout_s: float) -> list[Worker]:
        """End all of them by SIGTERM, as a supervisor does; those that are still there after ``timeout_s``."""
        self._closing = True
        workers = self.alive
        for worker in workers:
            worker.signal(signal.SIGTERM)
        waits = [asyncio.ensure_future(worker.ended.wait()) for worker in workers]
        if waits:
            await asyncio.wait(waits, timeout=timeout_s)
        return self.alive

    async def close(self) -> None:
        """End everything that is left, at once."""
        self._closing = True
        if self._nursery is not None and self._nursery.stdin is not None:
            self._nursery.stdin.close()
            await self._nursery.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self, nursery: asyncio.subprocess.Process) -> None:
        while nursery.stdout is not None and (line := await nursery.stdout.readline()):
            word = json.loads(line)
            if "started" in word:
                self._started.pop(word["started"]).set_result(word["pid"])
                while word["pid"] not in self._workers:  # noqa: ASYNC110 - start() notes it before its end can be told
                    await asyncio.sleep(0)
            else:
                self._end(self._workers.pop(word["ended"]), word["status"])

    def _end(self, worker: Worker, status: int) -> None:
        worker.status = status
        worker.ended.set()
        self.exits[status] += 1
        self._timeline.note("worker ended", f"{worker.name} (pid {worker.pid}): {_words(status)}")
        if worker.replaced and not self._closing:
            self._spawn(self._replace(worker.member))

    async def _replace(self, member: str) -> None:
        await asyncio.sleep(REPLACE_AFTER_S)
        if not self._closing:
            await self.start(replaced=True, member=member)

    def _spawn(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _words(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit code {status}"
