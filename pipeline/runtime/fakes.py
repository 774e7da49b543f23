"""Sessions without a model, for tests and dry runs: they keep the real ones' promises, and can be told to fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.models.card import ImageSpec, ModelCard, TextSpec, Variant
from pipeline.models.store import ServedModel
from pipeline.runtime.session import CacheLayout, Floats, IntArray, Logits, SessionError

__all__ = ["FakeBackend", "FakeDecoder", "FakeSession", "FakeTokenizer", "fake_classifier", "fake_generator"]

END_OF_PROMPT, END_OF_TEXT, VOCABULARY = 256, 257, 258
Fault = Callable[[npt.NDArray[Any]], bool]


def _never(_: npt.NDArray[Any]) -> bool:
    return False


class FakeSession:
    """Classifies an image by its first pixel's first channel: that class (modulo their number) scores 1, others 0.

    Args:
        classes: how many there are.
        fault: given the batch's pixels, whether the run fails.
    """

    provider = "cpu"

    def __init__(self, classes: int, fault: Fault = _never) -> None:
        self._classes = classes
        self._fault = fault

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, Floats]:
        """``logits`` float32 [N, classes]."""
        pixels = feeds["pixels"]
        if self._fault(pixels):
            raise SessionError("the fake session was told to fail")
        first = pixels.reshape(len(pixels), -1)[:, 0]
        return {"logits": np.eye(self._classes, dtype=np.float32)[first % self._classes]}


class FakeDecoder:
    """Echoes the prompt, then ends. It reads everything from its cache, so a damaged cache shows in the answer.

    Args:
        layout: of the cache; only ``slots`` and ``max_length`` matter.
        fault: given the input ids of a step, whether it fails.
    """

    provider = "cpu"

    def __init__(self, layout: CacheLayout, fault: Fault = _never) -> None:
        self._cache = np.full((layout.slots, layout.max_length), -1, np.int64)
        self._fault = fault

    def step(self, first: int, input_ids: IntArray, lengths: IntArray) -> Logits:
        """Float32 [N, 258]."""
        count, size = input_ids.shape
        if count > 1 and size > 1:
            raise SessionError(f"{size} tokens at once need one slot, not {count}")
        if self._fault(input_ids):
            raise SessionError("the fake decoder was told to fail")
        for row, (ids, length) in enumerate(zip(input_ids, lengths, strict=True)):
            self._cache[first + row, length : length + size] = ids
        ends = lengths + size
        following = [_echo(self._cache[first + row, :end]) for row, end in enumerate(ends)]
        logits: Logits = np.eye(VOCABULARY, dtype=np.float32)[following]
        return logits

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a slot, and spoil the rest of the target as a real one may."""
        self._cache[target] = -1
        self._cache[target, :length] = self._cache[source, :length]


def _echo(history: IntArray) -> int:
    ends = np.flatnonzero(history == END_OF_PROMPT)
    if len(ends) == 0:
        return END_OF_TEXT
    said = len(history) - int(ends[0]) - 1
    return int(history[said]) if said < ends[0] else END_OF_TEXT


class FakeTokenizer:
    """One token a byte of UTF-8, and one more that ends the prompt, which no text can hold."""

    special_tokens: tuple[str, ...] = ()

    def encode(self, text: str) -> list[int]:
        """The bytes of ``text``, then 256."""
        return [*text.encode(), END_OF_PROMPT]

    def encode_whole(self, text: str) -> list[int]:
        """As :meth:`encode`."""
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text; incomplete UTF-8 becomes U+FFFD."""
        return bytes(token for token in ids if token < END_OF_PROMPT).decode(errors="replace")


class FakeBackend:
    """Opens fakes, whatever the file holds.

    Args:
        classes: how many labels the classifiers have.
        fault: passed to every session and decoder.
    """

    def __init__(self, classes: int = 10, fault: Fault = _never) -> None:
        self._classes = classes
        self._fault = fault

    def open_session(self, path: Path) -> FakeSession:  # noqa: ARG002
        """A classifier."""
        return FakeSession(self._classes, self._fault)

    def open_decoder(self, path: Path, layout: CacheLayout) -> FakeDecoder:  # noqa: ARG002
        """A decoder."""
        return FakeDecoder(layout, self._fault)

    def open_tokenizer(self, path: Path) -> FakeTokenizer:  # noqa: ARG002
        """A tokenizer."""
        return FakeTokenizer()


def fake_classifier(folder: Path, classes: int = 10) -> ServedModel:
    """A model for :class:`FakeBackend`: 8 x 8 grey pixels; labels ``0``, ``1`` ... are written to ``folder``."""
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in range(classes)), encoding="utf-8")
    image = ImageSpec(height=8, width=8, channels=1, resize=8, labels="labels.txt")
    card = ModelCard(
        name="fake-images",
        version="1",
        task="image-classification",
        description="Classifies an image by its first pixel.",
        license="Apache-2.0",
        source="pipeline.runtime.fakes",
        variants={"int8": Variant(file="int8.onnx", sha256="0" * 64)},
        image=image,
    )
    return ServedModel(card=card, folder=folder)


def fake_generator(folder: Path, max_length: int = 256) -> ServedModel:
    """A model for :class:`FakeBackend`: it echoes the prompt or the last message. Its template goes to ``folder``."""
    (folder / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}", encoding="utf-8")
    text = TextSpec(
        tokenizer="tokenizer.json",
        layers=1,
        kv_heads=1,
        head_size=1,
        vocabulary=VOCABULARY,
        max_length=max_length,
        eos_token_ids=(END_OF_TEXT,),
        chat_template="chat_template.jinja",
    )
    card = ModelCard(
        name="fake-text",
        version="1",
        task="text-generation",
        description="Echoes the prompt.",
        license="Apache-2.0",
        source="pipeline.runtime.fakes",
        variants={"int8": Variant(file="int8.onnx", sha256="1" * 64)},
        text=text,
    )
    return ServedModel(card=card, folder=folder)
