"""How fast a variant that answers whole batches serves, by batch size, through the task that serves it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial

from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.factory.samples import Sample, request_of
from pipeline.models.card import VariantName
from pipeline.models.store import ServedModel
from pipeline.runtime.session import Backend, SessionError
from pipeline.settings import Settings
from pipeline.tasks.make import batch_model
from schemas.errors import RecordError

__all__ = ["LEAST_RUNS", "Subject", "Throughput", "measure_batches"]

LEAST_RUNS = 5


class Subject(Struct, frozen=True, kw_only=True):
    """What is measured, and on what.

    Attributes:
        settings: with the threads and the bounds to measure under.
        samples: inputs; blank ones without.
        seconds: how long each figure is measured, at least.
    """

    model: ServedModel
    variant: VariantName
    settings: Settings
    backend: Backend
    samples: Sequence[Sample]
    seconds: float


class Throughput(Struct, frozen=True, kw_only=True):
    """Records a second, or tokens decoded a second by all texts together.

    ``prefill_per_second`` is tokens of a prompt read a second, measured with one text alone; 0 where it was not.
    """

    batch_size: int
    per_second: float
    prefill_per_second: float = 0.0


def measure_batches(subject: Subject, sizes: Sequence[int]) -> list[Throughput]:
    """The speed of a model that answers whole batches, for each of ``sizes``. Raises ModelError."""
    model = subject.model
    task = batch_model(model, subject.variant, subject.settings, subject.backend)
    asked = model.card.tasks[-1]  # of a zero-shot model the embeddings, which need no labels
    try:
        task.open()
        items = [task.prepare(request_of(sample, asked))[0] for sample in subject.samples] or [task.blank()]
        batches = {size: list(itertools.islice(itertools.cycle(items), size)) for size in sizes}
        took = {size: _seconds_of(partial(task.run, batch), subject.seconds) for size, batch in batches.items()}
    except (SessionError, RecordError) as error:
        raise ModelError(f"model {model.spec} {subject.variant} cannot be measured: {error}") from error
    return [Throughput(batch_size=size, per_second=size / seconds) for size, seconds in took.items()]


def _seconds_of(run: Callable[[], object], seconds: float) -> float:
    run()  # the first of a shape makes its plan
    took: list[float] = []
    while sum(took) < seconds or len(took) < LEAST_RUNS:
        began = time.perf_counter()
        run()
        took.append(time.perf_counter() - began)
    return min(took)
