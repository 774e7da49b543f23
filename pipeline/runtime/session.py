"""What the tasks need of a device: narrow Protocols in front of ONNX Runtime and the tokenizers library.

The fakes in :mod:`pipeline.runtime.fakes` keep the same promises and are tested by the same cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = [
    "Backend",
    "CacheLayout",
    "DecoderSession",
    "Floats",
    "IntArray",
    "Logits",
    "Session",
    "SessionError",
    "TextCodec",
]

Floats = npt.NDArray[np.float32]
Logits = Floats
IntArray = npt.NDArray[np.int64]


class SessionError(Exception):
    """A run failed. Whether a record or the device is to blame is for the caller to find out."""


class _Decoder(Protocol):
    """What a card, and what the factory, says of a decoder."""

    @property
    def layers(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_size(self) -> int: ...
    @property
    def vocabulary(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLayout:
    """The KV cache of a decoder: for each layer, keys and values [slots, kv_heads, max_length, head_size]."""

    layers: int
    slots: int
    kv_heads: int
    max_length: int
    head_size: int
    vocabulary: int

    @classmethod
    def of(cls, decoder: _Decoder, *, slots: int, max_length: int) -> CacheLayout:
        """That of ``decoder``, with room for ``slots`` sequences of ``max_length`` tokens."""
        return cls(
            layers=decoder.layers,
            slots=slots,
            kv_heads=decoder.kv_heads,
            max_length=max_length,
            head_size=decoder.head_size,
            vocabulary=decoder.vocabulary,
        )


class Session(Protocol):
    """A loaded graph without state. Safe to call from one thread at a time."""

    @property
    def provider(self) -> str:
        """The device it runs on: ``cpu`` or ``cuda``."""

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, Floats]:
        """Every output of one batch, by name, as float32. Raises SessionError."""


class DecoderSession(Protocol):
    """A decoder and its KV cache of fixed slots. Safe to call from one thread at a time."""

    @property
    def provider(self) -> str:
        """The device it runs on: ``cpu`` or ``cuda``."""

    def step(self, first: int, input_ids: IntArray, lengths: IntArray, image_embeds: Floats | None = None) -> Logits:
        """Append tokens to the slots ``first`` to ``first + N - 1`` and predict what follows.

        A step may be repeated: the same tokens at the same lengths leave the same cache.

        Args:
            first: the first slot of the range.
            input_ids: int64 [N, S]; ``S`` above 1 requires ``N`` = 1.
            lengths: int64 [N], the tokens that each slot holds before this step.
            image_embeds: float32 [N, S, hidden], what a decoder that reads images reads where ``input_ids`` are the
                image's token; ``None`` is zero.

        Returns:
            float32 [N, vocabulary], the logits after the last token; valid until the next step.

        Raises:
            SessionError: the run failed; lengths and what they cover are unchanged.
        """

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` tokens of one slot over another. Raises SessionError."""


class TextCodec(Protocol):
    """A tokenizer. Safe to call from several threads."""

    @property
    def special_tokens(self) -> Sequence[str]:
        """What a text must not hold if :meth:`encode` is to find no special token in it."""

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; special tokens written in it are recognised, none are added."""

    def encode_whole(self, text: str) -> list[int]:
        """Token ids of ``text`` as an encoder reads it: with what the post-processor adds, such as [CLS] and [SEP].

        Special tokens written in ``text`` are plain text.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids`` without special tokens; incomplete UTF-8 becomes U+FFFD."""


class Backend(Protocol):
    """Opens sessions. Each method raises ModelError when the file is damaged or does not fit the card."""

    def open_session(self, path: Path) -> Session:
        """Load a graph without state."""

    def open_decoder(self, path: Path, layout: CacheLayout) -> DecoderSession:
        """Load a decoder and make its KV cache."""

    def open_tokenizer(self, path: Path) -> TextCodec:
        """Load a ``tokenizer.json``."""
