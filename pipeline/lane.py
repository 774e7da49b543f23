"""One served model: its task, its runner, and how their threads report to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from msgspec.structs import replace

from pipeline.errors import EngineError, ModelError
from pipeline.metrics import Metrics
from pipeline.models.choice import Choice
from pipeline.models.fit import check_fit, free_bytes, runs_on
from pipeline.models.store import ServedModel
from pipeline.runtime.gate import DeviceGate
from pipeline.runtime.runner import Runner
from pipeline.runtime.session import Backend
from pipeline.settings import RuntimeSettings, Settings
from pipeline.tasks.make import make_task
from pipeline.tasks.task import Settled, StepObserver
from schemas.messages import ModelInfo

__all__ = ["Lane", "OpenBackend", "settings_for"]

OpenBackend = Callable[[RuntimeSettings], Backend]
RUNS = frozenset({"batch", "prefill", "decode", "failure"})
"""What tasks observe of a run, once each."""


class Lane:
    """A model with its runner.

    Args:
        model: what is served.
        open_backend: opens the sessions, with the threads that are best for this model.
        gate: shared by all models of the device.
        deliver: called on the event loop with what a run has settled.
        failed: called on the event loop when the runner cannot go on.
        beside: it is to take over from another one, which serves while this one is opened.

    Attributes:
        name: ``name@version``.
        variant: which is served.
        digest: of that variant.
        task: prepares requests.
        runs: how often the device has run for it, runs that failed and each part of a divided batch counted.
        held: requests that it has not answered yet.

    Raises:
        ModelError: a card does not fit its files, or has no variant for this device.
    """

    def __init__(
        self,
        model: ServedModel,
        settings: Settings,
        open_backend: OpenBackend,
        gate: DeviceGate,
        metrics: Metrics,
        *,
        deliver: Callable[[list[Settled[Any]]], None],
        failed: Callable[[EngineError], None],
        beside: bool = False,
    ) -> None:
        self.model = model
        self.name = model.spec
        choice = model.choice(settings)
        self.variant = choice.variant
        self.digest = model.card.variants[self.variant].digest
        self._settings = settings_for(model, choice, settings)
        backend = open_backend(self._settings.runtime)
        self.task = make_task(model, self.variant, self._settings, backend, self._observer(metrics))
        self._deliver, self._failed, self._metrics = deliver, failed, metrics
        self._device_seconds = metrics.device_seconds.labels(self.name)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened: asyncio.Future[str] | None = None
        self.runs = self.held = 0
        self._info: ModelInfo | None = None
        self.runner: Runner[Any] = Runner(
            self.name,
            self.task,
            gate,
            check=self._check_fit,
            beside=beside,
            opened=lambda provider: self._call(self._set_opened, provider),
            settled=self._settled,
            failed=lambda error: self._call(self._failed, error),
            settings=settings.runtime,
            retrying=metrics.retries.labels(self.name).inc,
            rebuilt=metrics.rebuilds.labels(self.name).inc,
        )

    @property
    def started(self) -> bool:
        """Whether the model is open."""
        return self._info is not None

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
        self._info = self.model.info(self.variant, await self._opened)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """A request is here until the end of the context; the lane is not closed before."""
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1

    def let_go(self) -> None:
        """Give up the session and its memory. The runner must have ended, and the lane serves no more.

        What refers to it refers back to the lane: only cut through do they go at once, and do not wait for a garbage
        collection that may never look at what was there when the worker had started.
        """
        del self.task, self.runner

    def call_soon(self, function: Callable[..., object], *args: object) -> None:
        """Call ``function`` on the event loop; from any thread."""
        self._call(function, *args)

    def _check_fit(self) -> None:
        card = self.model.card
        provider = runs_on(card, self.variant, self._settings.runtime)
        free = free_bytes(provider)
        check_fit(card, self.model.folder, self.variant, provider, self._settings.batching, free)

    def _observer(self, metrics: Metrics) -> StepObserver:
        sizes = {kind: metrics.batch_size.labels(self.name, kind) for kind in ("batch", "decode")}
        counts = {
            "prefill": metrics.prompt_tokens,
            "token": metrics.generated_tokens,
            "bisection": metrics.bisections,
        }
        counters = {kind: counter.labels(self.name) for kind, counter in counts.items()}

        def observe(kind: str, count: int) -> None:
            self.runs += kind in RUNS
            if kind in sizes:
                sizes[kind].observe(count)
            if kind in counters:
                counters[kind].inc(count)

        return observe

    def _settled(self, done: list[Settled[Any]], seconds: float) -> None:
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


def settings_for(model: ServedModel, choice: Choice, settings: Settings) -> Settings:
    """``settings`` with the threads and the batch size that were chosen for one model; slots stay as they are."""
    batching = settings.batching
    if model.card.text is None:
        batching = replace(batching, max_batch_size=choice.max_batch_size)
    return replace(settings, runtime=replace(settings.runtime, threads=choice.threads), batching=batching)
