"""Text classification: the likeliest labels of each text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.models.card import EncoderSpec
from pipeline.runtime.session import Backend, Floats
from pipeline.tasks.labels import asked_top_k, check_labels, read_labels, sigmoid, softmax, top_labels
from pipeline.tasks.task import Answer
from pipeline.tasks.text_batch import TextEncoder, Tokens, text_of, text_usage
from schemas.errors import InferenceError
from schemas.messages import ClassificationOutput, InferenceRequest

__all__ = ["TextClassification"]


class TextClassification:
    """A classifier of texts as a :class:`pipeline.tasks.batch.BatchModel`.

    Args:
        path: the ONNX file.
        folder: where the tokenizer and the labels are.
        labels: the labels file, one a line.
        spec: the encoder part of the model's card.
    """

    def __init__(self, path: Path, folder: Path, labels: str, spec: EncoderSpec, backend: Backend) -> None:
        self._encoder = TextEncoder(path, folder, spec, backend, "logits")
        self._labels_file = folder / labels
        self._labels: tuple[str, ...] = ()
        self._to_scores = sigmoid if spec.multi_label else softmax

    def open(self) -> str:
        """Load the graph and check it against the labels; the provider's name."""
        self._labels = read_labels(self._labels_file)
        provider = self._encoder.open()
        check_labels(self.run([self.blank()])[0], self._labels, self._encoder.path, self._labels_file)
        return provider

    def prepare(self, request: InferenceRequest) -> tuple[Tokens, int]:
        """The tokens of the text, and how many there are with padding."""
        tokens = self._encoder.read(*text_of(request))
        return tokens, self._encoder.weight(tokens)

    def run(self, items: Sequence[Tokens]) -> Sequence[Floats]:
        """Logits [classes] of each text."""
        return self._encoder.run(items)

    def settle(self, request: InferenceRequest, item: Tokens, row: Floats, batch_size: float) -> Answer:
        """The likeliest labels."""
        if not np.isfinite(row).all():
            raise InferenceError("the model gave no finite scores for this text")
        labels = top_labels(self._to_scores(row), self._labels, asked_top_k(request))
        return Answer(output=ClassificationOutput(labels=labels), batch_size=batch_size, usage=text_usage(item))

    def blank(self) -> Tokens:
        """A short text."""
        return self._encoder.blank()
