"""How fast a variant serves, by batch size, through the task that serves it."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from PIL import Image

from pipeline.errors import ModelError
from pipeline.factory.samples import Sample, request_of
from pipeline.models.card import ImageSpec, ModelCard, VariantName
from pipeline.models.store import ServedModel
from pipeline.runtime.session import Backend, SessionError
from pipeline.settings import Settings
from pipeline.tasks.make import batch_model, make_task
from pipeline.tasks.task import Job, ModelTask, SessionLost
from schemas.errors import RecordError

__all__ = ["Speed", "measure_batches", "measure_decoding"]

LEAST_RUNS = 5
WORDS = "The quick brown fox jumps over the lazy dog. " * 4


class Speed(Struct, frozen=True, kw_only=True):
    """Records a second, or tokens decoded a second by all texts together.

    ``prefill_per_second`` is tokens of a prompt read a second, measured with one text alone; 0 where it was not.
    """

    batch_size: int
    per_second: float
    prefill_per_second: float = 0.0


def measure_batches(
    model: ServedModel,
    variant: VariantName,
    settings: Settings,
    backend: Backend,
    samples: Sequence[Sample],
    sizes: Sequence[int],
    seconds: float,
) -> list[Speed]:
    """The speed of a model that answers whole batches, for each of ``sizes``. Raises ModelError."""
    task = batch_model(model, variant, settings, backend)
    try:
        task.open()
        items = [task.prepare(request_of(sample, model.card.task))[0] for sample in samples] or [task.blank()]
        batches = {size: list(itertools.islice(itertools.cycle(items), size)) for size in sizes}
        return [
            Speed(batch_size=size, per_second=size / _seconds_of(lambda batch=batch: task.run(batch), seconds))  # type: ignore[misc]
            for size, batch in batches.items()
        ]
    except (SessionError, RecordError) as error:
        raise ModelError(f"model {model.spec} {variant} cannot be measured: {error}") from error


def measure_decoding(
    model: ServedModel,
    variant: VariantName,
    settings: Settings,
    backend: Backend,
    samples: Sequence[Sample],
    sizes: Sequence[int],
    seconds: float,
) -> list[Speed]:
    """The speed of a model that writes texts, for each of ``sizes`` as the number of texts. Raises ModelError."""
    steps = _Steps()
    task = make_task(_endless(model), variant, settings, backend, steps.observe)
    try:
        task.open()
        given = samples or [_blank(model.card, task)]
        prepared = [task.prepare(request_of(sample, model.card.task)) for sample in given]
        return [_decode(task, model.card, prepared, given, size, seconds, steps) for size in sizes]
    except (SessionError, SessionLost, RecordError) as error:
        raise ModelError(f"model {model.spec} {variant} cannot be measured: {error}") from error


class _Steps:
    """What the task has said of the run it was in."""

    def __init__(self) -> None:
        self.read = self.decoded = 0

    def observe(self, kind: str, count: int) -> None:
        if kind == "prefill":
            self.read += count
        if kind == "decode":
            self.decoded += count

    def timed(self, run: Callable[[], object]) -> float:
        """The seconds that ``run`` takes; what is said of it is said anew."""
        self.read = self.decoded = 0
        began = time.perf_counter()
        run()
        return time.perf_counter() - began


def _decode(
    task: ModelTask[Any],
    card: ModelCard,
    prepared: Sequence[tuple[Any, int]],
    samples: Sequence[Sample],
    size: int,
    seconds: float,
    steps: _Steps,
) -> Speed:
    """Read ``size`` prompts, then time the steps in which all of them are decoded."""
    jobs = [_job(card, samples[at % len(samples)], prepared[at % len(samples)], at) for at in range(size)]
    task.admit(jobs)
    decoding: list[float] = []
    read, reading_s, steps_meanwhile = 0, 0.0, 0
    while task.busy() and (sum(decoding) < seconds or len(decoding) < LEAST_RUNS):
        took = steps.timed(lambda: task.run(0.0, isolate=False))
        if steps.read:
            read, reading_s, steps_meanwhile = read + steps.read, reading_s + took, steps_meanwhile + steps.decoded
        elif steps.decoded == size:
            decoding.append(took)
    for job in jobs:
        job.cancelled = True
    while task.busy():
        task.run(0.0, isolate=False)
    if not decoding:
        raise SessionError(f"{size} texts were never decoded together: batching.max_length is too short for them")
    step_s = _typical(decoding)
    reading_s -= steps_meanwhile * step_s  # a run that ends a prompt decodes its next token as well
    prefill = read / reading_s if size == 1 and reading_s > 0 else 0.0
    return Speed(batch_size=size, per_second=size / step_s, prefill_per_second=prefill)


def _job(card: ModelCard, sample: Sample, prepared: tuple[Any, int], ticket: int) -> Job[Any]:
    request = request_of(sample, card.task, ticket)
    return Job(ticket=ticket, request=request, prepared=prepared[0], weight=prepared[1], ready_at=0.0)


def _seconds_of(run: Callable[[], object], seconds: float) -> float:
    run()  # the first of a shape makes its plan
    took: list[float] = []
    while sum(took) < seconds or len(took) < LEAST_RUNS:
        began = time.perf_counter()
        run()
        took.append(time.perf_counter() - began)
    return _typical(took)


def _typical(took: Sequence[float]) -> float:
    """The lower quartile: what takes longer was mostly interrupted by something else."""
    return sorted(took)[len(took) // 4]


def _endless(model: ServedModel) -> ServedModel:
    """``model`` without a token that ends a text, so that all go on as long as they are measured."""
    if model.card.text is None:
        raise ModelError(f"model {model.spec} writes no texts.")
    card = replace(model.card, text=replace(model.card.text, eos_token_ids=()))
    return ServedModel(card=card, folder=model.folder)


def _blank(card: ModelCard, task: ModelTask[Any]) -> Sample:
    """A prompt of some length, as much of it as fits, or a grey image."""
    if card.image is not None:
        return Sample(image=_grey(card.image))
    text = WORDS
    while len(text) > 1:
        try:
            task.prepare(request_of(Sample(text=text), card.task))
            return Sample(text=text[: len(text) // 2])  # the other half is for the answer
        except RecordError:
            text = text[: len(text) // 2]
    return Sample(text=text)


def _grey(spec: ImageSpec) -> bytes:
    file = io.BytesIO()
    Image.new("RGB" if spec.channels == 3 else "L", (spec.width, spec.height), 128).save(file, "PNG")
    return file.getvalue()
