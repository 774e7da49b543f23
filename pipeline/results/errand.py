"""Errands to a store that blocks: many at once, off the event loop, none for long, and none that fails a record.

All that gathers while one call is under way goes into the next, so a busy worker makes few calls and an idle one waits
for none. After a failure or too long a wait nobody waits any more: one errand every few seconds is made in the
background, and when one succeeds they are all made again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

from pipeline.errors import MillraceError
from pipeline.results.alarm import Alarm

__all__ = ["Errands"]

LOG = logging.getLogger("millrace.results")
T = TypeVar("T")
R = TypeVar("R")
MAX_ITEMS = 4_096
"""More than a worker with default settings holds, so that what waits goes into one call."""


class Errands(Generic[T, R]):
    """One kind of call to a store. On the event loop.

    Args:
        operation: its name.
        call: does it for some items, blocking; as many results, in order.
        pool: where ``call`` runs.
        alarm: gets to know how it goes.
        turn: shared by all errands of the pool, so that a call's time begins when it does.
        timeout_s: how long a call may take. An item waits for the calls before its own and for that one.
        retry_s: time between two attempts while it does not work.
    """

    def __init__(
        self,
        operation: str,
        call: Callable[[Sequence[T]], Sequence[R]],
        pool: Executor,
        alarm: Alarm,
        turn: asyncio.Lock,
        *,
        timeout_s: float,
        retry_s: float,
    ) -> None:
        self._operation = operation
        self._call = call
        self._pool = pool
        self._alarm = alarm
        self._turn = turn
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._waiting: list[tuple[T, asyncio.Future[R | None]]] = []
        self._task: asyncio.Task[object] | None = None
        self._under_way: asyncio.Future[Sequence[R]] | None = None
        self._retry_at: float | None = None
        self._stopped = False

    async def run(self, item: T) -> R | None:
        """The result for ``item``; ``None`` where there is none, for the store does not work."""
        if self._resting:
            self._try_again(item)
            return None
        future: asyncio.Future[R | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await future

    def rest(self, retry_in_s: float) -> None:
        """Make no errand before ``retry_in_s``."""
        self._retry_at = time.monotonic() + retry_in_s

    def stop(self) -> None:
        """Make no errand any more."""
        self._stopped = True

    @property
    def _resting(self) -> bool:
        return self._stopped or self._retry_at is not None

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_ITEMS], self._waiting[MAX_ITEMS:]
            items = [item for item, _ in batch]
            results = [None] * len(items) if self._resting else await self._attempt(items)
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)

    def _try_again(self, item: T) -> None:
        """When it is time for it, and no earlier call hangs, see in the background how it goes with ``item``."""
        hangs = self._under_way is not None and not self._under_way.done()
        due = self._retry_at is not None and time.monotonic() >= self._retry_at
        if due and not hangs and not self._stopped:
            self.rest(self._retry_s)
            self._task = asyncio.create_task(self._attempt([item]))

    async def _attempt(self, items: Sequence[T]) -> Sequence[R | None]:
        try:
            async with self._turn:
                results = await self._bounded(items)
        except Exception as error:  # whatever it is, no record may fail of it
            if not isinstance(error, MillraceError | TimeoutError):
                LOG.exception("the result store, in %s: an unexpected failure", self._operation)
            self.rest(self._retry_s)
            self._alarm.failed(self._operation, str(error) or repr(error))
            return [None] * len(items)
        self._retry_at = None
        self._alarm.worked(self._operation)
        return results

    async def _bounded(self, items: Sequence[T]) -> Sequence[R]:
        self._under_way = asyncio.get_running_loop().run_in_executor(self._pool, self._call, items)
        self._under_way.add_done_callback(_look)
        await asyncio.wait([self._under_way], timeout=self._timeout_s)
        if not self._under_way.done():
            raise TimeoutError(f"no answer within {self._timeout_s:g} s")
        return self._under_way.result()


def _look(call: asyncio.Future[Sequence[R]]) -> None:
    """Look at the exception of a call that nobody waits for any more, or asyncio complains."""
    if not call.cancelled():
        call.exception()
