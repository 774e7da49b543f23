"""Image classification: one batch, one session run, the likeliest labels of each image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import ModelError
from pipeline.models.card import ImageSpec
from pipeline.runtime.session import Backend, Floats, Session, SessionError
from pipeline.settings import ImageSettings
from pipeline.tasks.labels import read_labels, top_labels
from pipeline.tasks.pixels import Pixels, read_pixels
from pipeline.tasks.task import Answer
from schemas.errors import InferenceError
from schemas.messages import ClassificationOutput, ImageInput, InferenceRequest

__all__ = ["ImageClassification"]


class ImageClassification:
    """A classifier as a :class:`pipeline.tasks.batch.BatchModel`.

    Args:
        path: the ONNX file.
        labels: the labels file, one a line.
        spec: the input that the graph wants.
        images: what images are accepted.
    """

    def __init__(self, path: Path, labels: Path, spec: ImageSpec, images: ImageSettings, backend: Backend) -> None:
        self._path = path
        self._labels_file = labels
        self._labels: tuple[str, ...] = ()
        self._spec = spec
        self._images = images
        self._backend = backend
        self._session: Session | None = None

    def open(self) -> str:
        """Load the graph and check it against the labels; the provider's name."""
        self._session = None  # there may be no memory for two
        self._labels = read_labels(self._labels_file)
        self._session = self._backend.open_session(self._path)
        scores = self.run([self.blank()])[0]
        if scores.shape != (len(self._labels),):
            raise ModelError(
                f"{self._path}: an image gives logits of shape {scores.shape}, but {self._labels_file} has "
                f"{len(self._labels)} labels. Pull or build the model again."
            )
        return self._session.provider

    def prepare(self, request: InferenceRequest) -> tuple[Pixels, int]:
        """Pixels uint8 [height, width, channels], and how many there are."""
        pixels = read_pixels(request, self._spec, self._images)
        return pixels, pixels.size

    def run(self, items: Sequence[Pixels]) -> Sequence[Floats]:
        """Logits [classes] of each image."""
        if self._session is None:
            raise SessionError("the session is not open")
        return list(self._session.run({"pixels": np.stack(items)})["logits"])

    def settle(self, request: InferenceRequest, item: Pixels, row: Floats, batch_size: float) -> Answer:  # noqa: ARG002
        """The likeliest labels."""
        if not np.isfinite(row).all():
            raise InferenceError("the model gave no finite scores for this image")
        top_k = request.input.top_k if isinstance(request.input, ImageInput) else 1
        return Answer(output=ClassificationOutput(labels=top_labels(row, self._labels, top_k)), batch_size=batch_size)

    def blank(self) -> Pixels:
        """A black image."""
        return np.zeros((self._spec.height, self._spec.width, self._spec.channels), np.uint8)
