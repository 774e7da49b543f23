"""Image classification: the likeliest labels of each image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.models.card import ImageSpec
from pipeline.runtime.session import Backend, Floats
from pipeline.settings import ImageSettings
from pipeline.tasks.graph import Graph
from pipeline.tasks.labels import asked_top_k, check_labels, read_labels, softmax, top_labels
from pipeline.tasks.pixels import Pixels, read_pixels
from pipeline.tasks.task import Answer
from schemas.errors import InferenceError
from schemas.messages import ClassificationOutput, InferenceRequest

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
        self._graph = Graph(path, backend)
        self._labels_file = labels
        self._labels: tuple[str, ...] = ()
        self._spec = spec
        self._images = images

    def open(self) -> str:
        """Load the graph and check it against the labels; the provider's name."""
        self._labels = read_labels(self._labels_file)
        provider = self._graph.open()
        check_labels(self.run([self.blank()])[0], self._labels, self._graph.path, self._labels_file)
        return provider

    def prepare(self, request: InferenceRequest) -> tuple[Pixels, int]:
        """Pixels uint8 [height, width, channels], and how many there are."""
        pixels = read_pixels(request, self._spec, self._images)
        return pixels, pixels.size

    def run(self, items: Sequence[Pixels]) -> Sequence[Floats]:
        """Logits [classes] of each image."""
        return list(self._graph.run({"pixels": np.stack(items)}, "logits")[0])

    def settle(self, request: InferenceRequest, item: Pixels, row: Floats, batch_size: float) -> Answer:  # noqa: ARG002
        """The likeliest labels."""
        if not np.isfinite(row).all():
            raise InferenceError("the model gave no finite scores for this image")
        labels = top_labels(softmax(row), self._labels, asked_top_k(request))
        return Answer(output=ClassificationOutput(labels=labels), batch_size=batch_size)

    def blank(self) -> Pixels:
        """A black image."""
        return np.zeros((self._spec.height, self._spec.width, self._spec.channels), np.uint8)
