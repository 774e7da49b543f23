"""Image classification: one batch, one session run, the likeliest labels of each image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import ModelError
from pipeline.models.card import ImageSpec
from pipeline.runtime.isolate import run_batch
from pipeline.runtime.session import Backend, Logits, Session, SessionError
from pipeline.settings import Settings
from pipeline.tasks.dataref import read_dataref
from pipeline.tasks.pixels import Pixels, decode_image
from pipeline.tasks.task import Answer, Job, Result, SessionLost, Settled, StepObserver, why_dropped
from schemas.errors import InferenceError, PrepareError
from schemas.messages import ClassificationOutput, ImageInput, InferenceRequest, Label

__all__ = ["ImageClassification", "top_labels"]


class ImageClassification:
    """A classifier as a :class:`pipeline.tasks.task.ModelTask`.

    Args:
        path: the ONNX file.
        labels: the labels file, one a line.
        spec: the input that the graph wants.
        observe: told of every batch's size, and of divided ones.
    """

    def __init__(
        self, path: Path, labels: Path, spec: ImageSpec, settings: Settings, backend: Backend, observe: StepObserver
    ) -> None:
        self._path = path
        self._labels_file = labels
        self._spec = spec
        self._images = settings.images
        self._max_batch_size = settings.batching.max_batch_size
        self._backend = backend
        self._observe = observe
        self._labels: tuple[str, ...] = ()
        self._session: Session | None = None
        self._batch: list[Job[Pixels]] = []
        self._settled: list[Settled[Pixels]] = []

    def open(self) -> str:
        """Load the graph, warm it up, check it against the labels; the provider's name."""
        self._labels = _read_labels(self._labels_file)
        self._session = self._backend.open_session(self._path)
        self._warm_up()
        return self._session.provider

    def prepare(self, request: InferenceRequest) -> tuple[Pixels, int]:
        """Pixels uint8 [height, width, channels], and how many there are."""
        if not isinstance(request.input, ImageInput):
            raise PrepareError("this model reads images, and the record holds text", where="$")
        pixels = decode_image(self._data(request.input), self._spec, self._images.max_pixels)
        return pixels, pixels.size

    def room(self) -> int:
        """A whole batch, or nothing while one is held."""
        return 0 if self._batch else self._max_batch_size

    def busy(self) -> bool:
        """Whether a batch is held."""
        return bool(self._batch)

    def admit(self, jobs: Sequence[Job[Pixels]]) -> None:
        """Hold the next batch."""
        self._batch.extend(jobs)

    def run(self, now_ms: float, *, isolate: bool) -> list[Settled[Pixels]]:
        """Run the batch, each image's fault its own."""
        self._drop(now_ms)
        rows = self._run_batch(isolate=isolate) if self._batch else []
        size = len(self._batch)
        done = [Settled(job, self._result(job, row, size)) for job, row in zip(self._batch, rows, strict=True)]
        settled, self._batch, self._settled = self._settled + done, [], []
        return settled

    def recover(self) -> None:
        """Load the graph again; the batch is kept."""
        self._session = None
        self.open()

    def _data(self, image: ImageInput) -> bytes:
        data, limit = image.data, self._images.max_bytes
        if image.dataref is not None:
            data = read_dataref(image.dataref, self._images.dataref_roots, limit)
        if len(data) > limit:
            raise PrepareError(f"the image has {len(data)} bytes, more than images.max_bytes = {limit}")
        return data

    def _drop(self, now_ms: float) -> None:
        for job in list(self._batch):
            if (why := why_dropped(job, now_ms)) is not None:
                self._batch.remove(job)
                self._settled.append(Settled(job, why))

    def _run_batch(self, *, isolate: bool) -> list[Logits | SessionError]:
        return run_batch(
            self._rows,
            [job.prepared for job in self._batch],
            isolate=isolate,
            probe=self._probe,
            bisecting=lambda: self._observe("bisection", 1),
        )

    def _rows(self, images: Sequence[Pixels]) -> Sequence[Logits]:
        rows = list(self._logits(images))
        self._observe("batch", len(images))
        return rows

    def _logits(self, images: Sequence[Pixels]) -> Logits:
        if self._session is None:
            raise SessionError("the session is not open")
        return self._session.run({"pixels": np.stack(images)})

    def _result(self, job: Job[Pixels], row: Logits | SessionError, batch_size: int) -> Result:
        if isinstance(row, SessionError):
            return InferenceError(f"the model failed on this image: {row}")
        if not np.isfinite(row).all():
            return InferenceError("the model gave no finite scores for this image")
        top_k = job.request.input.top_k if isinstance(job.request.input, ImageInput) else 1
        output = ClassificationOutput(labels=top_labels(row, self._labels, top_k))
        return Answer(output=output, batch_size=float(batch_size))

    def _blank(self, count: int) -> list[Pixels]:
        return [np.zeros((self._spec.height, self._spec.width, self._spec.channels), np.uint8)] * count

    def _probe(self) -> None:
        """Tell a record's fault from the session's: run an input known to be good."""
        try:
            self._logits(self._blank(1))
        except SessionError as error:
            raise SessionLost(f"{self._path}: the session fails on a blank image: {error}") from error

    def _warm_up(self) -> None:
        try:
            for count in sorted({1, self._max_batch_size}):
                shape = self._logits(self._blank(count)).shape
                if shape != (count, len(self._labels)):
                    raise ModelError(
                        f"{self._path}: {count} images give logits of shape {shape}, but {self._labels_file} has "
                        f"{len(self._labels)} labels. Pull or build the model again."
                    )
        except SessionError as error:
            raise ModelError(f"{self._path}: the warm-up failed: {error}") from error


def top_labels(logits: Logits, labels: Sequence[str], top_k: int) -> tuple[Label, ...]:
    """The ``top_k`` likeliest labels, best first, with their softmax probability. ``logits`` is float32 [classes]."""
    weights = np.exp(logits.astype(np.float64) - float(logits.max()))
    scores = weights / weights.sum()
    best = np.argsort(-scores, kind="stable")[:top_k]
    return tuple(Label(label=labels[i], score=round(float(scores[i]), 6)) for i in best)


def _read_labels(file: Path) -> tuple[str, ...]:
    try:
        return tuple(file.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{file}: the labels cannot be read: {error}") from error
