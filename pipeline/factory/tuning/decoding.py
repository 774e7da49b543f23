"""How fast a variant that writes texts serves, by how many it writes at once, through the task that serves it."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace
from PIL import Image

from pipeline.errors import ModelError
from pipeline.factory.samples import Sample, request_of
from pipeline.factory.tuning.throughput import LEAST_RUNS, Subject, Throughput
from pipeline.models.card import ImageSpec, ModelCard
from pipeline.models.store import ServedModel
from pipeline.runtime.session import SessionError
from pipeline.tasks.make import make_task
from pipeline.tasks.task import Job, ModelTask, SessionLost
from schemas.errors import RecordError

__all__ = ["measure_decoding"]

WORDS = "The quick brown fox jumps over the lazy dog. " * 4


def measure_decoding(subject: Subject, sizes: Sequence[int]) -> list[Throughput]:
    """The speed of a model that writes texts, for each of ``sizes`` as the number of texts. Raises ModelError."""
    writer = _Writer()
    model = _endless(subject.model)
    writer.task = make_task(model, subject.variant, subject.settings, subject.backend, writer.observe)
    try:
        writer.task.open()
        samples = subject.samples or [_blank(model.card, writer.task)]
        return [writer.write(_jobs(model.card, writer.task, samples, size), subject.seconds) for size in sizes]
    except (SessionError, SessionLost, RecordError) as error:
        raise ModelError(f"model {model.spec} {subject.variant} cannot be measured: {error}") from error


class _Writer:
    """Runs a task, and times its runs by what the task says of them."""

    task: ModelTask[Any]

    def __init__(self) -> None:
        self._read = self._decoded = 0

    def observe(self, kind: str, count: int) -> None:
        """Told by the task."""
        self._read += count if kind == "prefill" else 0
        self._decoded += count if kind == "decode" else 0

    def write(self, jobs: Sequence[Job[Any]], seconds: float) -> Throughput:
        """Read the prompts, then time the steps in which all of them are decoded. Raises SessionError."""
        self.task.admit(jobs)
        steps: list[float] = []
        read, decoded, reading_s = 0, 0, 0.0
        while self.task.busy() and (sum(steps) < seconds or len(steps) < LEAST_RUNS):
            took = self._run()
            if self._read:
                read, decoded, reading_s = read + self._read, decoded + self._decoded, reading_s + took
            elif self._decoded == len(jobs):
                steps.append(took)
        self._abandon(jobs)
        if not steps:
            raise SessionError(f"{len(jobs)} texts were never decoded together: batching.max_length is too short")
        step_s = min(steps)
        reading_s -= decoded * step_s  # a run that ends a prompt decodes its next token as well
        alone = len(jobs) == 1 and reading_s > 0
        return Throughput(
            batch_size=len(jobs),
            per_second=len(jobs) / step_s,
            prefill_per_second=read / reading_s if alone else 0.0,
        )

    def _run(self) -> float:
        self._read = self._decoded = 0
        began = time.perf_counter()
        self.task.run(0.0, isolate=False)
        return time.perf_counter() - began

    def _abandon(self, jobs: Sequence[Job[Any]]) -> None:
        for job in jobs:
            job.cancelled = True
        while self.task.busy():
            self.task.run(0.0, isolate=False)


def _jobs(card: ModelCard, task: ModelTask[Any], samples: Sequence[Sample], size: int) -> list[Job[Any]]:
    jobs = []
    for ticket in range(size):
        request = request_of(samples[ticket % len(samples)], card.task, ticket)
        prepared, weight = task.prepare(request)
        jobs.append(Job(ticket=ticket, request=request, prepared=prepared, weight=weight, ready_at=0.0))
    return jobs


def _endless(model: ServedModel) -> ServedModel:
    """``model`` without a token that ends a text, so that all go on as long as they are measured."""
    if model.card.text is None:
        raise ModelError(f"model {model.spec} writes no texts.")
    card = replace(model.card, text=replace(model.card.text, eos_token_ids=()))
    return ServedModel(card=card, folder=model.folder)


def _blank(card: ModelCard, task: ModelTask[Any]) -> Sample:
    """Half of what fits of a prompt of some length, the other half being for the answer; or a grey image."""
    if card.image is not None:
        return Sample(image=_grey(card.image))
    text = WORDS
    while len(text) > 1 and not _fits(task, card, text):
        text = text[: len(text) // 2]
    return Sample(text=text[: max(1, len(text) // 2)])


def _fits(task: ModelTask[Any], card: ModelCard, text: str) -> bool:
    try:
        task.prepare(request_of(Sample(text=text), card.task))
    except RecordError:
        return False
    return True


def _grey(spec: ImageSpec) -> bytes:
    file = io.BytesIO()
    Image.new("RGB" if spec.channels == 3 else "L", (spec.width, spec.height), 128).save(file, "PNG")
    return file.getvalue()
