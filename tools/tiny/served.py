"""What a model answers when it serves: requests through its task, batched as a worker would."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace
from PIL import Image

from pipeline.models.card import VariantName
from pipeline.models.store import ServedModel
from pipeline.runtime.onnx import OnnxBackend
from pipeline.settings import Settings
from pipeline.tasks.make import make_task
from pipeline.tasks.task import Answer, Job, Settled
from schemas.messages import ImageInput, InferenceRequest, Output, Source, TextInput

__all__ = ["answers_of", "png"]


def answers_of(model: ServedModel, variant: VariantName, inputs: Sequence[TextInput | ImageInput]) -> list[Output]:
    """The answer to each of ``inputs``, on the CPU.

    Raises:
        ValueError: one of them has none.
        ModelError: the variant cannot be loaded.
    """
    settings = Settings()
    backend = OnnxBackend(replace(settings.runtime, provider="cpu"))
    task = make_task(model, variant, settings, backend, lambda _what, _count: None)
    task.open()
    waiting = [_job(task, model, asked, ticket) for ticket, asked in enumerate(inputs)]
    answers: dict[int, Output] = {}
    while waiting or task.busy():
        room = task.room()
        task.admit(waiting[:room])
        waiting = waiting[room:]
        answers |= dict(map(_answer, task.run(0.0, isolate=True)))
    return [answers[ticket] for ticket in range(len(inputs))]


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Grey pixels [height, width] as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _job(task: Any, model: ServedModel, asked: TextInput | ImageInput, ticket: int) -> Job[Any]:
    source = Source(topic="held-out", partition=0, offset=ticket)
    request = InferenceRequest(id=f"held-out/0/{ticket}", source=source, task=model.card.task, input=asked)
    prepared, weight = task.prepare(request)
    return Job(ticket=ticket, request=request, prepared=prepared, weight=weight, ready_at=0.0)


def _answer(settled: Settled[Any]) -> tuple[int, Output]:
    if not isinstance(settled.result, Answer):
        raise ValueError(f"held-out input {settled.job.ticket} got no answer: {settled.result!r}")  # noqa: TRY004
    return settled.job.ticket, settled.result.output
