"""Object detection: what is in an image, and where."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.errors import ModelError
from pipeline.models.card import DetectionSpec, ImageSpec
from pipeline.runtime.session import Backend, Floats
from pipeline.settings import ImageSettings
from pipeline.tasks.boxes import chosen_candidates, detected_objects
from pipeline.tasks.graph import Graph
from pipeline.tasks.labels import asked_top_k, read_labels
from pipeline.tasks.pixels import View, read_view
from pipeline.tasks.task import Answer
from schemas.errors import InferenceError
from schemas.messages import DetectionOutput, ImageInput, InferenceRequest

__all__ = ["Candidates", "ObjectDetection"]

DEFAULT_MOST = 100
"""Objects of an image, unless it asks for another number."""


class Candidates(NamedTuple):
    """What the model saw in one image: scores [candidates, classes] and boxes [candidates, 4]."""

    scores: Floats
    boxes: Floats


class ObjectDetection:
    """A detector as a :class:`pipeline.tasks.batch.BatchModel`.

    Args:
        path: the ONNX file.
        labels: the labels file, one a line.
        spec: the input that the graph wants.
        detection: how candidates become objects.
        images: what images are accepted.
    """

    def __init__(
        self,
        path: Path,
        labels: Path,
        spec: ImageSpec,
        detection: DetectionSpec,
        images: ImageSettings,
        backend: Backend,
    ) -> None:
        self._graph = Graph(path, backend)
        self._labels_file = labels
        self._labels: tuple[str, ...] = ()
        self._spec = spec
        self._detection = detection
        self._images = images

    def open(self) -> str:
        """Load the graph and check it against the labels; the provider's name."""
        self._labels = read_labels(self._labels_file)
        provider = self._graph.open()
        scores, boxes = self.run([self.blank()])[0]
        if scores.ndim != 2 or scores.shape[1] != len(self._labels) or boxes.shape != (len(scores), 4):
            raise ModelError(
                f"{self._graph.path}: an image gives scores of shape {scores.shape} and boxes of shape {boxes.shape}, "
                f"but {self._labels_file} has {len(self._labels)} labels. Pull or build the model again."
            )
        return provider

    def prepare(self, request: InferenceRequest) -> tuple[View, int]:
        """The pixels with the part of the image that they show, and how many there are."""
        view = read_view(request, self._spec, self._images)
        return view, view.pixels.size

    def run(self, items: Sequence[View]) -> Sequence[Candidates]:
        """The candidates of each image."""
        pixels = np.stack([item.pixels for item in items])
        scores, boxes = self._graph.run({"pixels": pixels}, "scores", "boxes")
        return [Candidates(*row) for row in zip(scores, boxes, strict=True)]

    def settle(self, request: InferenceRequest, item: View, row: Candidates, batch_size: float) -> Answer:
        """The objects, likeliest first."""
        if not (np.isfinite(row.scores).all() and np.isfinite(row.boxes).all()):
            raise InferenceError("the model gave no finite scores or boxes for this image")
        places = chosen_candidates(
            row.scores,
            row.boxes,
            threshold=self._threshold(request),
            nms_iou=self._detection.nms_iou,
            most=asked_top_k(request, DEFAULT_MOST),
        )
        objects = detected_objects(places, row.scores, row.boxes, self._labels, item)
        return Answer(output=DetectionOutput(objects=objects), batch_size=batch_size)

    def blank(self) -> View:
        """A black image."""
        height, width = self._spec.height, self._spec.width
        pixels = np.zeros((height, width, self._spec.channels), np.uint8)
        return View(pixels=pixels, width=width, height=height, box=(0.0, 0.0, float(width), float(height)))

    def _threshold(self, request: InferenceRequest) -> float:
        asked = request.input.threshold if isinstance(request.input, ImageInput) else None
        return self._detection.threshold if asked is None else asked
