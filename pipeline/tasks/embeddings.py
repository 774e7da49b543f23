"""Embeddings: each text becomes a vector of unit length, so that near meanings are near vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.models.card import EncoderSpec
from pipeline.runtime.session import Backend, Floats
from pipeline.tasks.task import Answer
from pipeline.tasks.text_batch import TextEncoder, Tokens, text_of, text_usage
from pipeline.tasks.vectors import embedding_output
from schemas.messages import InferenceRequest

__all__ = ["TextEmbeddings", "check_dimensions"]


class TextEmbeddings:
    """A sentence encoder as a :class:`pipeline.tasks.batch.BatchModel`.

    Args:
        path: the ONNX file.
        folder: where the tokenizer is.
        spec: the encoder part of the model's card.
    """

    def __init__(self, path: Path, folder: Path, spec: EncoderSpec, backend: Backend) -> None:
        self._encoder = TextEncoder(path, folder, spec, backend, "embedding")
        self._spec = spec

    def open(self) -> str:
        """Load the graph and check it against the card; the provider's name."""
        provider = self._encoder.open()
        check_dimensions(self.run([self.blank()])[0], self._spec, self._encoder.path)
        return provider

    def prepare(self, request: InferenceRequest) -> tuple[Tokens, int]:
        """The tokens of the text, and how many there are with padding."""
        tokens = self._encoder.read(*text_of(request))
        return tokens, self._encoder.weight(tokens)

    def run(self, items: Sequence[Tokens]) -> Sequence[Floats]:
        """The embedding [dimensions] of each text."""
        return self._encoder.run(items)

    def settle(self, request: InferenceRequest, item: Tokens, row: Floats, batch_size: float) -> Answer:  # noqa: ARG002
        """The vector, and the tokens read."""
        return Answer(output=embedding_output(row), batch_size=batch_size, usage=text_usage(item))

    def blank(self) -> Tokens:
        """A short text."""
        return self._encoder.blank()


def check_dimensions(row: Floats, spec: EncoderSpec, path: Path) -> None:
    """Check that an embedding is one vector, as long as the card says if it does. Raises ModelError."""
    if row.ndim != 1 or spec.dimensions not in (None, len(row)):
        raise ModelError(
            f"{path}: an embedding has the shape {row.shape}, but the card says {spec.dimensions} dimensions. Pull or "
            "build the model again."
        )
