"""Tasks that answer a whole batch with one run: what they share, so that each of them is prepare, run and settle."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from pipeline.errors import ModelError
from pipeline.runtime.isolate import run_batch
from pipeline.runtime.session import SessionError
from pipeline.tasks.task import Answer, Job, Result, SessionLost, Settled, StepObserver, why_dropped
from schemas.errors import InferenceError, RecordError
from schemas.messages import InferenceRequest

__all__ = ["BatchModel", "BatchTask"]

LOG = logging.getLogger(__name__)
P = TypeVar("P")
R = TypeVar("R")


class BatchModel(Protocol[P, R]):
    """A model that answers whole batches. All but :meth:`prepare` are called on the runner's device thread alone."""

    def open(self) -> str:
        """Load the graphs and check them against the card, by a run; the provider. Raises ModelError, SessionError."""

    def prepare(self, request: InferenceRequest) -> tuple[P, int]:
        """The model's input for ``request``, and its weight; called from several threads. Raises RecordError."""

    def run(self, items: Sequence[P]) -> Sequence[R]:
        """One row for each item, in order; a row does not depend on the others. Raises SessionError."""

    def settle(self, request: InferenceRequest, item: P, row: R, batch_size: float) -> Answer:
        """The answer that ``row`` is. Raises RecordError."""

    def blank(self) -> P:
        """An input known to be good."""


class BatchTask(Generic[P, R]):
    """A :class:`BatchModel` as a :class:`pipeline.tasks.task.ModelTask`.

    Args:
        name: the model, for messages.
        model: what answers.
        max_batch_size: the most requests in one batch.
        observe: told of every batch's size, and of divided ones.
    """

    def __init__(self, name: str, model: BatchModel[P, R], max_batch_size: int, observe: StepObserver) -> None:
        self._name = name
        self._model = model
        self._max_batch_size = max_batch_size
        self._observe = observe
        self._batch: list[Job[P]] = []
        self._settled: list[Settled[P]] = []

    def open(self) -> str:
        """Load the model and warm it up."""
        try:
            provider = self._model.open()
            for count in sorted({1, self._max_batch_size}):
                self._model.run([self._model.blank()] * count)
        except SessionError as error:
            raise ModelError(f"model {self._name}: the warm-up failed: {error}") from error
        return provider

    def prepare(self, request: InferenceRequest) -> tuple[P, int]:
        """The model's input for ``request``, and its weight."""
        return self._model.prepare(request)

    def room(self) -> int:
        """A whole batch, or nothing while one is held."""
        return 0 if self._batch else self._max_batch_size

    def busy(self) -> bool:
        """Whether a batch is held."""
        return bool(self._batch)

    def admit(self, jobs: Sequence[Job[P]]) -> None:
        """Hold the next batch."""
        self._batch.extend(jobs)

    def run(self, now_ms: float, *, isolate: bool) -> list[Settled[P]]:
        """Run the batch, each request's fault its own."""
        self._drop(now_ms)
        rows = self._run_batch(isolate=isolate) if self._batch else []
        size = float(len(self._batch))
        done = [Settled(job, self._result(job, row, size)) for job, row in zip(self._batch, rows, strict=True)]
        settled, self._batch, self._settled = self._settled + done, [], []
        return settled

    def recover(self) -> None:
        """Load the model again; the batch is kept."""
        self.open()

    def _drop(self, now_ms: float) -> None:
        for job in list(self._batch):
            if (why := why_dropped(job, now_ms)) is not None:
                self._batch.remove(job)
                self._settled.append(Settled(job, why))

    def _run_batch(self, *, isolate: bool) -> list[R | SessionError]:
        return run_batch(
            self._rows,
            [job.prepared for job in self._batch],
            isolate=isolate,
            probe=self._probe,
            observe=self._observe,
        )

    def _rows(self, items: Sequence[P]) -> Sequence[R]:
        rows = self._model.run(items)
        self._observe("batch", len(items))
        return rows

    def _result(self, job: Job[P], row: R | SessionError, batch_size: float) -> Result:
        if isinstance(row, SessionError):
            return InferenceError(f"the model failed on this record: {row}")
        try:
            return self._model.settle(job.request, job.prepared, row, batch_size)
        except RecordError as error:
            return error
        except Exception as error:  # whatever it is, the worker must not die of this record again and again
            LOG.exception("request %s: its answer could not be made", job.request.id)
            return InferenceError(f"the model's output could not be made an answer: {type(error).__name__}: {error}")

    def _probe(self) -> None:
        """Tell a record's fault from the session's: run an input known to be good."""
        try:
            self._model.run([self._model.blank()])
        except SessionError as error:
            raise SessionLost(f"model {self._name}: the session fails on a blank input: {error}") from error
