"""Whole texts for encoders: read, padded and run so that a text's result does not depend on who runs with it.

A text is padded to a length that depends on itself alone, and only texts of one padded length share a session run:
padding to the longest of a batch would make the same text another matrix, and another rounding, in other company.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import ModelError
from pipeline.models.card import EncoderSpec
from pipeline.runtime.session import Backend, Floats, SessionError
from pipeline.tasks.graph import Graph
from pipeline.tasks.prompts import MAX_TOKEN_CHARS
from schemas.errors import PrepareError
from schemas.messages import InferenceRequest, TextInput, Usage

__all__ = ["TextEncoder", "Tokens", "padded_length", "text_of", "text_usage"]

BUCKETS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
BEYOND = 128
"""Longer texts are padded to a multiple of this."""
MAX_PADDED_TOKENS = 16_384
"""Of one session run, as many as 32 texts of 512: an image may bring a thousand labels."""

Tokens = tuple[int, ...]


def padded_length(tokens: int, max_length: int) -> int:
    """The length that a text of ``tokens`` is padded to; never more than ``max_length``."""
    if tokens > BUCKETS[-1]:
        return min(-(-tokens // BEYOND) * BEYOND, max_length)
    return min(BUCKETS[bisect_left(BUCKETS, tokens)], max_length)


def text_of(request: InferenceRequest) -> tuple[str, str]:
    """The one text of ``request``, and where it stands. Raises PrepareError when there is none, or more."""
    asked = request.input
    if not isinstance(asked, TextInput):
        raise PrepareError("this model reads text, and the record holds an image", where="$")
    if asked.prompt is not None:
        return asked.prompt, "$.prompt"
    if len(asked.messages) != 1:
        raise PrepareError("this model reads one text: send 'prompt', or one message", where="$.messages")
    return asked.messages[0].content, "$.messages[0].content"


def text_usage(tokens: Tokens) -> Usage:
    """What reading ``tokens`` counts for."""
    return Usage(prompt_tokens=len(tokens), completion_tokens=0, total_tokens=len(tokens))


class TextEncoder:
    """The graph and the tokenizer of an encoder.

    Args:
        path: the ONNX file: ``input_ids`` and ``attention_mask`` int64 [N, S] in.
        folder: where the tokenizer is.
        spec: the encoder part of the model's card.
        output: the graph's output, float32 [N, ...].
    """

    def __init__(self, path: Path, folder: Path, spec: EncoderSpec, backend: Backend, output: str) -> None:
        self._spec = spec
        self._output = output
        self._graph = Graph(path, backend)
        self._codec = backend.open_tokenizer(folder / spec.tokenizer)

    @property
    def path(self) -> Path:
        """The ONNX file, for messages."""
        return self._graph.path

    def open(self) -> str:
        """Load the graph; the provider's name. Raises ModelError."""
        return self._graph.open()

    def read(self, text: str, where: str) -> Tokens:
        """Token ids of ``text``, special ones included. Raises PrepareError when it is too long."""
        most = self._spec.max_length
        if len(text) > most * MAX_TOKEN_CHARS:
            raise _too_long(f"{len(text)} characters", most, where)
        tokens = tuple(self._codec.encode_whole(text))
        if not tokens:
            raise PrepareError("the text has no tokens. Send some text.", where=where)
        if len(tokens) > most:
            raise _too_long(f"{len(tokens)} tokens", most, where)
        return tokens

    def weight(self, tokens: Tokens) -> int:
        """The length that ``tokens`` are padded to."""
        return padded_length(len(tokens), self._spec.max_length)

    def run(self, texts: Sequence[Tokens]) -> list[Floats]:
        """The output's row of each text, in order; texts of one padded length run together. Raises SessionError."""
        places: dict[int, list[int]] = defaultdict(list)
        for place, tokens in enumerate(texts):
            places[self.weight(tokens)].append(place)
        rows: dict[int, Floats] = {}
        for length, members in sorted(places.items()):
            size = max(1, MAX_PADDED_TOKENS // length)
            for part in (members[first : first + size] for first in range(0, len(members), size)):
                rows.update(zip(part, self._run([texts[place] for place in part], length), strict=True))
        return [rows[place] for place in range(len(texts))]

    def blank(self) -> Tokens:
        """A short text. Raises ModelError when the model cannot even read that."""
        try:
            return self.read("a", "$")
        except PrepareError as error:
            raise ModelError(f"{self.path}: it does not read the text 'a': {error.message}") from error

    def _run(self, texts: Sequence[Tokens], length: int) -> Sequence[Floats]:
        ids = np.full((len(texts), length), self._spec.pad_token_id, np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(texts):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        (rows,) = self._graph.run({"input_ids": ids, "attention_mask": mask}, self._output)
        if len(rows) != len(texts):
            raise SessionError(f"a batch of {len(texts)} texts gave {len(rows)} results")
        return list(rows)


def _too_long(found: str, most: int, where: str) -> PrepareError:
    return PrepareError(f"the text has {found}, and this model reads {most} tokens at most: shorten it", where=where)
