"""Zero-shot classification of images by labels that the request brings, and embeddings of images and of texts.

The model puts images and texts into one space (CLIP: Radford et al. 2021, arXiv:2103.00020): an image is what the
nearest of its labels' texts says. One lane answers all three questions, and they may share a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct

from pipeline.models.card import EncoderSpec, ImageSpec, ZeroShotSpec
from pipeline.runtime.session import Backend, Floats
from pipeline.settings import ImageSettings
from pipeline.tasks.embeddings import check_dimensions
from pipeline.tasks.graph import Graph
from pipeline.tasks.label_vectors import LabelVectors
from pipeline.tasks.labels import Scores, asked_top_k, softmax, top_labels
from pipeline.tasks.pixels import Pixels, read_pixels
from pipeline.tasks.task import Answer
from pipeline.tasks.text_batch import TextEncoder, Tokens, text_of, text_usage
from pipeline.tasks.vectors import embedding_output, unit
from schemas.errors import InferenceError, PrepareError
from schemas.messages import ClassificationOutput, ImageInput, InferenceRequest, TextInput

__all__ = ["Question", "Vectors", "ZeroShot"]

KEPT_LABELS = 4_096
LABEL_WEIGHT = 131_072
"""A label's text costs about as much as the pixels of an image, so that a batch of images with a thousand labels each
does not hold the device for minutes."""


class Question(Struct, frozen=True, kw_only=True):
    """An image, with or without labels, or a text; all of them only in :meth:`ZeroShot.blank`."""

    image: Pixels | None = None
    labels: tuple[Tokens, ...] = ()
    text: Tokens | None = None


class Vectors(Struct, frozen=True, kw_only=True):
    """The embeddings [dimensions] of what is in a question."""

    image: Floats | None = None
    labels: tuple[Floats, ...] = ()
    text: Floats | None = None


class ZeroShot:
    """A model with a graph for images and one for texts as a :class:`pipeline.tasks.batch.BatchModel`.

    Args:
        image_path: the graph of images.
        text_path: the graph of texts.
        folder: where the tokenizer is.
        image: the input that the graph of images wants.
        text: the encoder part of the model's card.
        spec: how similarities become scores.
        images: what images are accepted.
    """

    def __init__(
        self,
        image_path: Path,
        text_path: Path,
        folder: Path,
        *,
        image: ImageSpec,
        text: EncoderSpec,
        spec: ZeroShotSpec,
        images: ImageSettings,
        backend: Backend,
    ) -> None:
        self._graph = Graph(image_path, backend)
        self._encoder = TextEncoder(text_path, folder, text, backend, "embedding")
        self._labels = LabelVectors(self._encoder.run, KEPT_LABELS)
        self._image, self._text, self._spec = image, text, spec
        self._images = images

    def open(self) -> str:
        """Load both graphs and check them against the card; the provider's name."""
        self._labels.forget()
        provider = self._graph.open()
        self._encoder.open()
        blank = self.blank()
        check_dimensions(self._run_images([blank])[0], self._text, self._graph.path)
        check_dimensions(self._run_texts([blank])[0], self._text, self._encoder.path)
        return provider

    def prepare(self, request: InferenceRequest) -> tuple[Question, int]:
        """What is to be embedded, and how heavy it is, in pixels or tokens."""
        if isinstance(request.input, TextInput):
            text = self._encoder.read(*text_of(request))
            return Question(text=text), self._encoder.weight(text)
        labels = () if request.task == "embeddings" else self._read_labels(request.input)
        image = read_pixels(request, self._image, self._images)
        return Question(image=image, labels=labels), image.size + LABEL_WEIGHT * len(labels)

    def run(self, items: Sequence[Question]) -> Sequence[Vectors]:
        """The vectors of each question: one run of all images, and the texts by their lengths."""
        images, texts = iter(self._run_images(items)), iter(self._run_texts(items))
        labels = self._labels.of(label for item in items for label in item.labels)
        return [
            Vectors(
                image=None if item.image is None else next(images),
                labels=tuple(labels[label] for label in item.labels),
                text=None if item.text is None else next(texts),
            )
            for item in items
        ]

    def settle(self, request: InferenceRequest, item: Question, row: Vectors, batch_size: float) -> Answer:
        """The labels by their scores, or the vector."""
        if row.text is not None:
            return Answer(output=embedding_output(row.text), batch_size=batch_size, usage=text_usage(item.text or ()))
        if row.image is None:
            raise InferenceError("the model was asked neither about an image nor about a text")
        if not row.labels:
            return Answer(output=embedding_output(row.image), batch_size=batch_size)
        scores = self._scores(row.image, row.labels)
        names = request.input.candidate_labels if isinstance(request.input, ImageInput) else ()
        labels = top_labels(scores, names, asked_top_k(request, default=len(names)))
        return Answer(output=ClassificationOutput(labels=labels), batch_size=batch_size)

    def blank(self) -> Question:
        """A black image and a short text that is not remembered, so that both graphs run."""
        shape = (self._image.height, self._image.width, self._image.channels)
        return Question(image=np.zeros(shape, np.uint8), text=self._encoder.blank())

    def _read_labels(self, asked: ImageInput) -> tuple[Tokens, ...]:
        if not asked.candidate_labels:
            raise PrepareError(
                "zero-shot classification needs candidate_labels: say what the image may show, as in "
                "[\"a cat\", \"a dog\"], or set 'task' to 'embeddings' for the image's vector",
                where="$.candidate_labels",
            )
        template = self._spec.template if asked.hypothesis_template is None else asked.hypothesis_template
        return tuple(
            self._encoder.read(template.replace("{}", label), f"$.candidate_labels[{place}]")
            for place, label in enumerate(asked.candidate_labels)
        )

    def _run_images(self, items: Sequence[Question]) -> Sequence[Floats]:
        pixels = [item.image for item in items if item.image is not None]
        return list(self._graph.run({"pixels": np.stack(pixels)}, "embedding")[0]) if pixels else []

    def _run_texts(self, items: Sequence[Question]) -> Sequence[Floats]:
        return self._encoder.run([item.text for item in items if item.text is not None])

    def _scores(self, image: Floats, labels: Sequence[Floats]) -> Scores:
        matrix = np.stack(labels).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            cosines = matrix @ unit(image) / np.linalg.norm(matrix, axis=1)
        if not np.isfinite(cosines).all():
            raise InferenceError("the model gave no finite embedding for a label")
        return softmax(self._spec.logit_scale * cosines)
