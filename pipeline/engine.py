"""The engine: requests in, outcomes out, for every model that a worker serves.

A request is routed to its model, prepared on a thread pool and handed to the model's runner; the event loop is never
blocked. A record's own fault raises a RecordError from its ``submit`` alone. When a model cannot go on, the whole
engine fails: every pending and later ``submit`` raises EngineError, so nothing of them is committed.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from pipeline.errors import EngineError
from pipeline.follower import Follower
from pipeline.lane import Lane
from pipeline.lanes import Lanes
from pipeline.metrics import Metrics
from pipeline.models.store import ServedModel
from pipeline.outcomes import Prepared, make_outcome, prepare_request, stream_pieces
from pipeline.results.choose import find_store
from pipeline.results.recall import Recall
from pipeline.results.store import ResultStore
from pipeline.router import find_route
from pipeline.runtime.gate import DeviceGate
from pipeline.runtime.limit import Bound, serving
from pipeline.runtime.session import Backend
from pipeline.settings import RuntimeSettings, Settings
from pipeline.tasks.task import Answer, Job, Result, Settled
from schemas.errors import RecordError
from schemas.messages import InferenceRequest, ModelInfo, Outcome, TokenPiece
from schemas.outcomes import expired_outcome

__all__ = ["Engine"]

CLOSE_TIMEOUT_S = 3.0
CLOSE_POLL_S = 0.005


class Engine:
    """Serves requests. All of its methods belong to one event loop.

    Args:
        settings: batching, runtime and image bounds, the result store.
        models: what to serve; the first of each task is its default.
        metrics: where to report; by default a registry of its own.
        specs: what each model was asked for as. One without a version is followed: when another version of it is
            promoted, that one takes over. By default none is.
        backend: opens the sessions; by default ONNX Runtime as ``settings.runtime`` says.
        store: keeps outcomes for a repeat; by default what ``settings.results`` says, which may be none.

    Raises:
        ModelError: a card does not fit its files, or the precision is not there.
        SettingsError: there is no such result store.
    """

    def __init__(
        self,
        settings: Settings,
        models: Sequence[ServedModel],
        *,
        specs: Sequence[str] = (),
        metrics: Metrics | None = None,
        backend: Backend | None = None,
        store: ResultStore | None = None,
    ) -> None:
        self.metrics = metrics or Metrics()
        store = store or find_store(settings.results)
        self._recall = Recall(store, self.metrics, timeout_s=settings.results.timeout_s) if store else None
        self._pool = ThreadPoolExecutor(settings.runtime.prepare_threads, thread_name_prefix="millrace-prepare")
        self._tickets = itertools.count()
        self._pending: dict[int, asyncio.Future[Result]] = {}
        self._failed: asyncio.Future[EngineError] | None = None
        self._error: EngineError | None = EngineError("the engine is not started.")
        make_lane = partial(
            Lane,
            settings=settings,
            open_backend=partial(_onnx_backend, serving(settings.worker)) if backend is None else lambda _: backend,
            gate=DeviceGate(),
            metrics=self.metrics,
            deliver=self._deliver,
            failed=self._fail,
        )
        self._lanes = Lanes([make_lane(model) for model in models], self.metrics)
        self._follower = Follower(settings, specs, self._lanes, partial(make_lane, beside=True), self.metrics)

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """What is served, down to the digest and the provider. Raises EngineError before the start."""
        return tuple(lane.info for lane in self._lanes.serving)

    @property
    def changed(self) -> asyncio.Event:
        """Set whenever another version has taken over; whoever waits for it clears it."""
        return self._lanes.changed

    @property
    def runs(self) -> int:
        """How often the device has run, also in vain: it grows while anything is computed."""
        return self._lanes.runs

    @property
    def failed(self) -> asyncio.Future[EngineError]:
        """Done when the engine cannot go on; its result says why. Raises EngineError before the start."""
        if self._failed is None:
            raise EngineError("the engine is not started.")
        return self._failed

    async def start(self) -> None:
        """Load and warm up every model. Raises ModelError or SettingsError; then nothing keeps running."""
        self._failed = asyncio.get_running_loop().create_future()
        starts = [self._lanes.start(lane) for lane in self._lanes.serving]
        starts += [self._recall.start()] if self._recall else []
        results = await asyncio.gather(*starts, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                await self.close()
                raise result
        self._error = None
        self._follower.start()

    async def submit(self, request: InferenceRequest, *, emit: Callable[[TokenPiece], None] | None = None) -> Outcome:
        """The outcome of ``request``: ``ok`` or ``expired``.

        Args:
            request: what to serve.
            emit: gets the pieces of a streamed answer (``stream``) as they come, on the event loop, before the outcome.

        Raises:
            RecordError: this record cannot be served; others are not concerned.
            EngineError: the engine has failed, is closed or not started; the record was not served.
        """
        self._check()
        lane = find_route(request, self._lanes.serving)
        with lane.hold(), self.metrics.in_flight.labels(lane.name).track_inprogress():
            return await self._counted(lane, request, emit)

    async def close(self) -> bool:
        """Stop after the runs in progress; what is still pending gets an EngineError.

        Returns:
            Whether every thread has ended within 3 s. One that hangs, on a device that never answers, is left behind.
        """
        self._stop(EngineError("the engine is closed."))
        self._follower.stop()
        self._lanes.close()
        if self._recall:
            self._recall.stop()
        # A thread of its own: whatever waits on an executor is waited for again when the loop and the process end.
        joining = threading.Thread(target=self._join, name="millrace-close", daemon=True)
        joining.start()
        until = time.monotonic() + CLOSE_TIMEOUT_S
        while joining.is_alive() and time.monotonic() < until:  # noqa: ASYNC110 - no event: the loop may be gone by then
            await asyncio.sleep(CLOSE_POLL_S)
        return not joining.is_alive()

    def _join(self) -> None:
        self._follower.join()
        self._lanes.join()
        self._pool.shutdown()
        if self._recall:
            self._recall.join()

    async def _counted(
        self, lane: Lane, request: InferenceRequest, emit: Callable[[TokenPiece], None] | None
    ) -> Outcome:
        status = "cancelled"
        try:
            outcome = await self._serve(lane, request, emit)
            status = outcome.status
        except RecordError as error:
            status = error.code
            raise
        except EngineError:
            status = "engine_error"
            raise
        finally:
            self.metrics.results.labels(lane.name, status).inc()
        return outcome

    async def _serve(self, lane: Lane, request: InferenceRequest, emit: Callable[[TokenPiece], None] | None) -> Outcome:
        compute = partial(self._compute, lane, request, time.perf_counter())
        if self._recall is None:
            return await compute(emit)
        return await self._recall.once(request, lane.digest, emit, compute)

    async def _compute(
        self, lane: Lane, request: InferenceRequest, submitted: float, emit: Callable[[TokenPiece], None] | None
    ) -> Outcome:
        self._check()
        if request.expires_at_ms is not None and request.expires_at_ms <= _now_ms():
            return expired_outcome(request, _now_ms(), lane.info)
        prepared = await asyncio.get_running_loop().run_in_executor(self._pool, prepare_request, lane.task, request)
        job = self._job(lane, request, prepared, emit)
        result = await self._result(lane, job)
        if isinstance(result, RecordError):
            result.model = lane.info
            raise result
        if not isinstance(result, Answer):
            return expired_outcome(request, _now_ms(), lane.info)
        outcome = make_outcome(job, result, prepared, submitted, lane.info, _now_ms())
        self._observe(lane, outcome)
        return outcome

    def _job(
        self, lane: Lane, request: InferenceRequest, prepared: Prepared, emit: Callable[[TokenPiece], None] | None
    ) -> Job[Any]:
        return Job(
            ticket=next(self._tickets),
            request=request,
            prepared=prepared.value,
            weight=prepared.weight,
            ready_at=prepared.ended_at,
            stream=stream_pieces(request, lane.digest, emit, lane.call_soon),
        )

    async def _result(self, lane: Lane, job: Job[Any]) -> Result:
        self._check()
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._pending[job.ticket] = future
        lane.runner.add(job)
        try:
            return await future
        finally:
            job.cancelled = True  # Means nothing once the job is settled.
            self._pending.pop(job.ticket, None)

    def _deliver(self, done: list[Settled[Any]]) -> None:
        for settled in done:
            future = self._pending.get(settled.job.ticket)
            if future is not None and not future.done():
                future.set_result(settled.result)

    def _fail(self, error: EngineError) -> None:
        if self._failed is not None and not self._failed.done():
            self._failed.set_result(error)
        self._stop(error)

    def _stop(self, error: EngineError) -> None:
        """Refuse new work and end what is pending; the first reason stays."""
        if self._error is None or self._failed is None or not self._failed.done():
            self._error = error
        for future in self._pending.values():
            if not future.done():
                future.set_exception(error)

    def _check(self) -> None:
        if self._error is not None:
            # A fresh one for each caller: a shared exception would collect all their tracebacks.
            raise EngineError(str(self._error))

    def _observe(self, lane: Lane, outcome: Outcome) -> None:
        steps = self.metrics.steps
        for step in ("queue", "prepare", "run"):
            steps.labels(lane.name, step).observe(getattr(outcome.timings, f"{step}_ms") / 1_000)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _onnx_backend(bound: Bound, settings: RuntimeSettings) -> Backend:
    # Imported here so that a worker on fakes, and every import of this module, goes without ONNX Runtime.
    from pipeline.runtime.onnx import OnnxBackend

    return OnnxBackend(settings, bound)
