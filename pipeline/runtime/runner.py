"""The thread that drives one model: plan, admit, run, settle, again and again while there is work.

It never waits for a batch to fill: whatever is ready when the device becomes free is planned. A batch that fails runs
again after a wait, while the device is others'; when that has not helped, the task finds out who is to blame.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

from pipeline.errors import EngineError, MillraceError, ModelError
from pipeline.planner import Candidate, Limits, plan_batch
from pipeline.runtime.gate import DeviceGate
from pipeline.runtime.session import SessionError
from pipeline.settings import RuntimeSettings
from pipeline.tasks.task import Answer, Dropped, Job, ModelTask, SessionLost, Settled

__all__ = ["Runner"]

P = TypeVar("P")
LOG = logging.getLogger(__name__)
NUMBERS = itertools.count()
MAX_PADDED_WEIGHT = 256 * 1024 * 1024
"""Bound of one batch's input, in pixels or tokens with padding: 256 MiB of uint8 pixels."""


class Runner(Generic[P]):
    """Runs one task on a thread of its own.

    Args:
        name: the model, for messages.
        task: what to run.
        gate: shared with the other models of the device.
        settings: how often, and after how long, a failed batch runs again.
        check: called on the thread right before the model is opened; raises ModelError when it should not be.
        beside: open the model while others have the device: it is to take over from one that serves.
        opened: called on the thread when the model is ready, with its provider, or with why it is not.
        settled: called on the thread with what is done, and the seconds the device worked for it.
        failed: called on the thread, once, when it cannot go on; no job is settled after that.
        retrying: called on the thread when a failed batch is to run again.
        rebuilt: called on the thread when a lost session is about to be rebuilt. One that is lost again before it has
            given an answer fails the runner.
    """

    def __init__(
        self,
        name: str,
        task: ModelTask[P],
        gate: DeviceGate,
        *,
        settings: RuntimeSettings,
        check: Callable[[], None] = lambda: None,
        beside: bool = False,
        opened: Callable[[str | ModelError], None],
        settled: Callable[[list[Settled[P]], float], None],
        failed: Callable[[EngineError], None],
        retrying: Callable[[], None],
        rebuilt: Callable[[], None],
    ) -> None:
        self.name = name
        self.task = task
        self._gate = gate
        self._place = f"{name} {next(NUMBERS)}"  # at the gate: two runners of one model may stand there
        self._check, self._beside = check, beside
        self._opened, self._settled, self._failed = opened, settled, failed
        self._retrying, self._rebuilt = retrying, rebuilt
        self._settings = settings
        self._failures = 0  # of the batch that the task holds
        self._changed = threading.Condition()
        self._inbox: list[Job[P]] = []
        self._closing = False
        self._waiting: dict[int, Job[P]] = {}
        self._candidates: dict[int, Candidate] = {}
        self._was_rebuilt = False
        self._thread = threading.Thread(target=self._main, name=f"millrace-{name}", daemon=True)

    def start(self) -> None:
        """Start the thread, which opens the model first."""
        self._thread.start()

    def add(self, job: Job[P]) -> None:
        """Hand over a job; from any thread."""
        with self._changed:
            self._inbox.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Let the thread end after the run it is in; from any thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def join(self) -> None:
        """Wait for the thread's end."""
        if self._thread.ident is not None:
            self._thread.join()

    def ended(self) -> bool:
        """Whether the thread has ended, or was never started."""
        return not self._thread.is_alive()

    def _main(self) -> None:
        try:
            if self._open():
                while self._receive():
                    self._cycle()
                    self._back_off()
        except MillraceError as error:
            self._failed(EngineError(f"model {self.name} cannot go on: {error}"))
        except Exception as error:
            LOG.exception("model %s: the runner's thread ended", self.name)
            self._failed(EngineError(f"model {self.name} stopped on {type(error).__name__}: {error}. This is a bug."))
        finally:
            self._gate.forget(self._place)

    def _open(self) -> bool:
        turn: AbstractContextManager[None] = nullcontext() if self._beside else self._gate.turn(self._place)
        try:
            with turn:
                self._check()
                provider = self.task.open()
        except ModelError as error:
            # A fresh one: its traceback would keep a session alive that is not to serve.
            self._opened(ModelError(str(error)))
            return False
        except Exception as error:  # whatever it is, the start waits for word of it
            LOG.exception("model %s: opening it failed", self.name)
            self._opened(_unopened(self.name, error))
            return False
        self._opened(provider)
        return True

    def _receive(self) -> bool:
        """Take in new jobs; sleeps only while there is nothing to run. False when closing."""
        with self._changed:
            while not (self._inbox or self._waiting or self._closing or self.task.busy()):
                self._changed.wait()
            arrived, self._inbox = self._inbox, []
            closing = self._closing
        self._waiting.update((job.ticket, job) for job in arrived)
        self._candidates.update((job.ticket, _candidate(job)) for job in arrived)
        return not closing

    def _cycle(self) -> None:
        # The turn covers planning and settling: released between two runs only for a moment, the device goes to
        # whoever has used it least, not to whoever happens to wait while this thread is between two steps.
        with self._gate.turn(self._place):
            done = self._schedule()
            start = time.perf_counter()
            done += self._run()
            seconds = time.perf_counter() - start
            self._stamp(done)
            self._settled(done, seconds)

    def _schedule(self) -> list[Settled[P]]:
        """Admit what runs next; what nobody waits for, or too late, is settled instead."""
        cancelled = [ticket for ticket, job in self._waiting.items() if job.cancelled]
        done = [Settled(self._take(ticket), Dropped.CANCELLED) for ticket in cancelled]
        limits = Limits(max_batch_size=self.task.room(), max_padded_weight=MAX_PADDED_WEIGHT)
        plan = plan_batch(list(self._candidates.values()), time.time() * 1_000, limits)
        done += [Settled(self._take(ticket), Dropped.EXPIRED) for ticket in plan.expired]
        if admitted := [self._take(ticket) for ticket in plan.run]:
            self.task.admit(admitted)
        return done

    def _take(self, ticket: int) -> Job[P]:
        """A waiting job that starts, or will never start, now."""
        self._candidates.pop(ticket)
        job = self._waiting.pop(ticket)
        job.started_at = time.perf_counter()
        return job

    def _run(self) -> list[Settled[P]]:
        if not self.task.busy():
            return []
        try:
            done = self.task.run(time.time() * 1_000, isolate=self._failures >= self._settings.max_retries)
        except SessionError as error:
            self._retry(str(error))
            return []
        except SessionLost as error:
            lost = str(error)
        else:
            self._failures = 0
            if any(isinstance(settled.result, Answer) for settled in done):
                self._was_rebuilt = False
            return done
        # Not while the error is handled: its traceback holds the old session, and there may be no memory for two.
        self._rebuild(lost)
        return []

    def _retry(self, why: str) -> None:
        self._failures += 1
        LOG.warning("model %s: a batch failed and runs again (%d): %s", self.name, self._failures, why)
        self._retrying()

    def _back_off(self) -> None:
        """Wait before a failed batch runs again, twice as long each time; closing ends the wait."""
        if self._failures:
            wait_ms = self._settings.retry_backoff_ms * 2 ** (self._failures - 1)
            with self._changed:
                self._changed.wait_for(lambda: self._closing, min(wait_ms, self._settings.max_backoff_ms) / 1_000)

    def _rebuild(self, why: str) -> None:
        if self._was_rebuilt:
            raise EngineError(f"the session failed again after it was rebuilt once, before any answer: {why}")
        LOG.warning("model %s: rebuilding the session: %s", self.name, why)
        self._was_rebuilt = True
        self._failures = 0
        self._rebuilt()
        self.task.recover()

    @staticmethod
    def _stamp(done: Sequence[Settled[P]]) -> None:
        now = time.perf_counter()
        for settled in done:
            settled.job.finished_at = now


def _unopened(name: str, error: Exception) -> ModelError:
    return ModelError(
        f"model {name} cannot be opened: {type(error).__name__}: {error}. If memory is short, lower "
        "batching.max_slots, batching.max_length or batching.max_batch_size; otherwise check its files with "
        "`millrace models verify`."
    )


def _candidate(job: Job[P]) -> Candidate:
    return Candidate(
        ticket=job.ticket,
        weight=job.weight,
        priority=job.request.priority,
        arrived_ms=time.time() * 1_000,
        deadline_ms=job.request.expires_at_ms,
        key=job.request.key,
    )
