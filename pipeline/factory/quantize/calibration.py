"""What the graphs of a model are fed when it serves: recorded behind the task's own preparation and batching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.samples import Sample, request_of
from pipeline.models.card import VariantName
from pipeline.models.store import ServedModel
from pipeline.runtime.onnx import OnnxBackend
from pipeline.runtime.session import Backend, CacheLayout, DecoderSession, Floats, Session, TextCodec
from pipeline.settings import Settings
from pipeline.tasks.batch import BatchModel
from pipeline.tasks.make import batch_model
from pipeline.tasks.pixels import read_pixels
from schemas.errors import RecordError
from schemas.messages import Output, Task

__all__ = ["MAIN", "Feeds", "Observation", "cpu", "graph_paths", "observe", "open_model"]

MAIN = "main"
Feeds = Mapping[str, npt.NDArray[Any]]


class Observation(Struct, frozen=True, kw_only=True):
    """What happened when one sample was served.

    Attributes:
        feeds: of each graph that ran, by role; :data:`MAIN` is the variant's own file.
        outputs: of it, by name.
        answer: what the caller gets; ``None`` where a graph ran without its task.
    """

    feeds: dict[str, Feeds]
    outputs: dict[str, Mapping[str, Floats]]
    answer: Output | None = None


def cpu(settings: Settings) -> OnnxBackend:
    """Sessions on the CPU, with the threads that the settings give."""
    return OnnxBackend(replace(settings.runtime, provider="cpu"))


def graph_paths(model: ServedModel, variant: VariantName) -> dict[str, Path]:
    """The graphs of a variant, by role."""
    chosen = model.card.variants[variant]
    parts = {role: part.file for role, part in chosen.parts.items() if role != "data" and not role.endswith("-data")}
    return {role: model.folder / file for role, file in ({MAIN: chosen.file} | parts).items()}


def observe(
    model: ServedModel, variant: VariantName, samples: Sequence[Sample], settings: Settings
) -> list[Observation]:
    """Serve each sample alone, on the CPU; of an image-to-text model, its vision graph alone.

    Raises:
        ModelError: a sample cannot be read; the message counts samples from 1.
    """
    if model.card.task == "image-to-text":
        return _see(model, variant, samples, settings)
    recorder = _Recorder(cpu(settings), graph_paths(model, variant))
    served = batch_model(model, variant, settings, recorder)
    served.open()
    return [_serve(served, recorder, sample, _task(model), number) for number, sample in enumerate(samples, 1)]


def open_model(model: ServedModel, variant: VariantName, settings: Settings) -> BatchModel[Any, Any]:
    """The model as the task serves it, on the CPU. Raises ModelError."""
    served = batch_model(model, variant, settings, cpu(settings))
    served.open()
    return served


def _task(model: ServedModel) -> Task:
    """Zero-shot models are compared by their vectors, which need no labels."""
    return "embeddings" if model.card.task == "zero-shot-image-classification" else model.card.task


def _serve(served: BatchModel[Any, Any], recorder: _Recorder, sample: Sample, task: Task, number: int) -> Observation:
    request = request_of(sample, task, number)
    recorder.feeds, recorder.outputs = {}, {}
    try:
        item, _ = served.prepare(request)
        answer = served.settle(request, item, served.run([item])[0], 1.0)
    except RecordError as error:
        raise ModelError(f"sample {number}: the model cannot read it: {error.message}") from error
    return Observation(feeds=recorder.feeds, outputs=recorder.outputs, answer=answer.output)


def _see(model: ServedModel, variant: VariantName, samples: Sequence[Sample], settings: Settings) -> list[Observation]:
    spec, session = model.card.image, cpu(settings).open_session(graph_paths(model, variant)["vision"])
    if spec is None:
        raise ModelError(f"model {model.spec}: its card lacks an [image] table.")
    seen = []
    for number, sample in enumerate(samples, 1):
        if sample.image is None:
            raise ModelError(f"sample {number}: it has no image, which an image-to-text model needs.")
        try:
            pixels = read_pixels(request_of(sample, model.card.task, number), spec, settings.images)
        except RecordError as error:
            raise ModelError(f"sample {number}: the model cannot read it: {error.message}") from error
        feeds = {"pixels": np.stack([pixels])}
        seen.append(Observation(feeds={"vision": feeds}, outputs={"vision": session.run(feeds)}))
    return seen


class _Recorder:
    """A backend that keeps what its sessions were fed last, and what they gave."""

    def __init__(self, inner: Backend, paths: Mapping[str, Path]) -> None:
        self._inner = inner
        self._roles = {path: role for role, path in paths.items()}
        self.feeds: dict[str, Feeds] = {}
        self.outputs: dict[str, Mapping[str, Floats]] = {}

    def open_session(self, path: Path) -> Session:
        return _Recorded(self._inner.open_session(path), self._roles[path], self)

    def open_decoder(self, path: Path, layout: CacheLayout) -> DecoderSession:
        return self._inner.open_decoder(path, layout)

    def open_tokenizer(self, path: Path) -> TextCodec:
        return self._inner.open_tokenizer(path)


class _Recorded:
    def __init__(self, inner: Session, role: str, recorder: _Recorder) -> None:
        self._inner, self._role, self._recorder = inner, role, recorder
        self.provider = inner.provider

    def run(self, feeds: Feeds) -> Mapping[str, Floats]:
        outputs = self._inner.run(feeds)
        self._recorder.feeds[self._role] = dict(feeds)
        self._recorder.outputs[self._role] = outputs
        return outputs
