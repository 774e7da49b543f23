"""One served model: its task, its runner, and how their threads report to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pipeline.errors import EngineError, ModelError
from pipeline.metrics import Metrics
from pipeline.models.store import ServedModel
from pipeline.runtime.gate import DeviceGate
from pipeline.runtime.runner import Runner
from pipeline.runtime.session import Backend
from pipeline.settings import Settings
from pipeline.tasks.make import make_task
from pipeline.tasks.task import Settled, StepObserver
from schemas.messages import ModelInfo

__all__ = ["Lane"]


class Lane:
    """A model with its runner.

    Args:
        model: what is served.
        gate: shared by all models of the device.
        deliver: called on the event loop with what a run has settled.
        failed: called on the event loop when the runner cannot go on.

    Attributes:
        name: ``name@version``.
        digest: of the served variant.
        task: prepares requests.
        runs: how often the device has run for it.
    """

    def __init__(
        self,
        model: ServedModel,
        settings: Settings,
        backend: Backend,
        gate: DeviceGate,
        metrics: Metrics,
        *,
        deliver: Callable[[list[Settled[Any]]], None],
        failed: Callable[[EngineError], None],
    ) -> None:
        self.model = model
        self.name = model.spec
        self._variant = model.variant_for(settings.runtime.precision)
        self.digest = model.card.variants[self._variant].digest
        self.task = make_task(model, self._variant, settings, backend, self._observer(metrics))
        self._deliver, self._failed, self._metrics = deliver, failed, metrics
        self._device_seconds = metrics.device_seconds.labels(self.name)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened: asyncio.Future[str] | None = None
        self.runs = 0
        self._info: ModelInfo | None = None
        self.runner: Runner[Any] = Runner(
            self.name,
            self.task,
            gate,
            opened=lambda provider: self._call(self._set_opened, provider),
            settled=self._settled,
            failed=lambda error: self._call(self._failed, error),
            settings=settings.runtime,
            retrying=metrics.retries.labels(self.name).inc,
            rebuilt=metrics.rebuilds.labels(self.name).inc,
        )

    @property
    def info(self) -> ModelInfo:
        """Which model answers. Raises EngineError before the start."""
        if self._info is None:
            raise EngineError(f"model {self.name} is not started.")
        return self._info

    async def start(self) -> None:
        """Open the model on its thread. Raises ModelError."""
        self._loop = asyncio.get_running_loop()
        self._opened = self._loop.create_future()
        self.runner.start()
        self._info = self.model.info(self._variant, await self._opened)

    def call_soon(self, function: Callable[..., object], *args: object) -> None:
        """Call ``function`` on the event loop; from any thread."""
        self._call(function, *args)

    def _observer(self, metrics: Metrics) -> StepObserver:
        sizes = {kind: metrics.batch_size.labels(self.name, kind) for kind in ("batch", "decode")}
        counts = {
            "prefill": metrics.prompt_tokens,
            "token": metrics.generated_tokens,
            "bisection": metrics.bisections,
        }
        counters = {kind: counter.labels(self.name) for kind, counter in counts.items()}

        def observe(kind: str, count: int) -> None:
            if kind in sizes:
                sizes[kind].observe(count)
            if kind in counters:
                counters[kind].inc(count)

        return observe

    def _settled(self, done: list[Settled[Any]], seconds: float) -> None:
        self.runs += 1
        self._device_seconds.inc(seconds)
        if done:
            self._call(self._deliver, done)

    def _set_opened(self, provider: str | ModelError) -> None:
        if self._opened is None or self._opened.done():
            return
        if isinstance(provider, ModelError):
            self._opened.set_exception(provider)
        else:
            self._opened.set_result(provider)

    def _call(self, function: Callable[..., object], *args: object) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)
