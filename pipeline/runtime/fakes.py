"""Sessions without a model, for tests and dry runs: they keep the real ones' promises, and can be told to fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.models.card import (
    DetectionSpec,
    EncoderSpec,
    GraphFile,
    ImageSpec,
    ModelCard,
    TextSpec,
    Variant,
    VisionSpec,
    ZeroShotSpec,
)
from pipeline.models.store import ServedModel
from pipeline.runtime.session import CacheLayout, Floats, IntArray, Logits, SessionError
from schemas.messages import Task

__all__ = [
    "FakeBackend",
    "FakeDecoder",
    "FakeSession",
    "FakeTokenizer",
    "fake_classifier",
    "fake_detector",
    "fake_embedder",
    "fake_generator",
    "fake_reader",
    "fake_text_classifier",
    "fake_zero_shot",
]

END_OF_PROMPT, END_OF_TEXT, VOCABULARY = 256, 257, 258
# A byte that no text needs stands for an image, which has this many rows.
IMAGE_TOKEN, IMAGE_TOKENS = 1, 3
Fault = Callable[[npt.NDArray[Any]], bool]


def _never(_: npt.NDArray[Any]) -> bool:
    return False


class FakeSession:
    """A graph of any task without state. It sees in a record its first pixel's first channel, or its first token.

    That number, modulo ``classes``, is the class that scores 1 while the others score 0, and the axis of the embedding.
    A detector sees that class twice in the middle of an image, with the scores 1 and 0.5. Each row that a decoder reads
    of an image is the number itself.

    Args:
        classes: how many there are, and how many dimensions.
        fault: given the batch's pixels or token ids, whether the run fails.
    """

    provider = "cpu"

    def __init__(self, classes: int, fault: Fault = _never) -> None:
        self._classes = classes
        self._fault = fault

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, Floats]:
        """``logits``, ``embedding`` [N, classes]; ``scores`` [N, 2, classes], ``boxes`` [N, 2, 4]; ``image_embeds``."""
        inputs = feeds["pixels"] if "pixels" in feeds else feeds["input_ids"]
        if self._fault(inputs):
            raise SessionError("the fake session was told to fail")
        first = inputs.reshape(len(inputs), -1)[:, 0]
        seen = np.eye(self._classes, dtype=np.float32)[first % self._classes]
        return {
            "logits": seen,
            "embedding": seen,
            "scores": np.stack([seen, seen / 2], axis=1),
            "boxes": np.tile(np.array([0.25, 0.25, 0.75, 0.75], np.float32), (len(inputs), 2, 1)),
            "image_embeds": np.tile(first.astype(np.float32)[:, None, None], (1, IMAGE_TOKENS, 1)),
        }


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

    def step(self, first: int, input_ids: IntArray, lengths: IntArray, image_embeds: Floats | None = None) -> Logits:
        """Float32 [N, 258]. Where a row of an image is not zero, its first number is what it reads, as a token."""
        count, size = input_ids.shape
        if count > 1 and size > 1:
            raise SessionError(f"{size} tokens at once need one slot, not {count}")
        if self._fault(input_ids):
            raise SessionError("the fake decoder was told to fail")
        seen = np.zeros_like(input_ids) if image_embeds is None else image_embeds[..., 0].astype(np.int64)
        read = np.where(seen, seen, input_ids)
        for row, (ids, length) in enumerate(zip(read, lengths, strict=True)):
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
        classes: how many labels and dimensions the models have.
        fault: passed to every session and decoder.
    """

    def __init__(self, classes: int = 10, fault: Fault = _never) -> None:
        self._classes = classes
        self._fault = fault

    def open_session(self, path: Path) -> FakeSession:  # noqa: ARG002
        """A graph of whatever task."""
        return FakeSession(self._classes, self._fault)

    def open_decoder(self, path: Path, layout: CacheLayout) -> FakeDecoder:  # noqa: ARG002
        """A decoder."""
        return FakeDecoder(layout, self._fault)

    def open_tokenizer(self, path: Path) -> FakeTokenizer:  # noqa: ARG002
        """A tokenizer."""
        return FakeTokenizer()


def fake_classifier(folder: Path, classes: int = 10) -> ServedModel:
    """A model for :class:`FakeBackend`: 8 x 8 grey pixels; labels ``0``, ``1`` ... are written to ``folder``."""
    return _model(folder, "fake-images", "image-classification", "0", image=_image(_labels(folder, classes)))


def fake_generator(folder: Path, max_length: int = 256) -> ServedModel:
    """A model for :class:`FakeBackend`: it echoes the prompt or the last message. Its template goes to ``folder``."""
    return _model(folder, "fake-text", "text-generation", "1", text=_text(folder, max_length))


def fake_reader(folder: Path, max_length: int = 256) -> ServedModel:
    """A model for :class:`FakeBackend`: it echoes an image's first pixel as three bytes, a new line and the question.

    Its template goes to ``folder``.
    """
    token = chr(IMAGE_TOKEN)
    vision = VisionSpec(image_token=token, image_token_id=IMAGE_TOKEN, image_tokens=IMAGE_TOKENS, hidden=1)
    text = _text(folder, max_length)
    return _model(folder, "fake-reader", "image-to-text", "6", text=text, image=_image(None), vision=vision)


def fake_text_classifier(folder: Path, classes: int = 10, max_length: int = 64) -> ServedModel:
    """A model for :class:`FakeBackend`: a text's class is its first byte, modulo ``classes``. Labels as above."""
    encoder = EncoderSpec(tokenizer="tokenizer.json", max_length=max_length, labels=_labels(folder, classes))
    return _model(folder, "fake-topics", "text-classification", "2", encoder=encoder)


def fake_embedder(folder: Path, max_length: int = 64) -> ServedModel:
    """A model for :class:`FakeBackend`: the first byte of a text is the axis along which it lies."""
    encoder = EncoderSpec(tokenizer="tokenizer.json", max_length=max_length)
    return _model(folder, "fake-vectors", "embeddings", "3", encoder=encoder)


def fake_detector(folder: Path, classes: int = 10) -> ServedModel:
    """A model for :class:`FakeBackend`: it sees the class of the first pixel in the middle. Labels as above."""
    image = _image(_labels(folder, classes))
    return _model(folder, "fake-objects", "object-detection", "4", image=image, detection=DetectionSpec(threshold=0.75))


def fake_zero_shot(folder: Path, max_length: int = 64) -> ServedModel:
    """A model for :class:`FakeBackend`: an image is the label whose first byte is its first pixel, modulo 10."""
    encoder = EncoderSpec(tokenizer="tokenizer.json", max_length=max_length)
    zero_shot = ZeroShotSpec(logit_scale=10.0, template="{}")
    task: Task = "zero-shot-image-classification"
    return _model(folder, "fake-captions", task, "5", image=_image(None), encoder=encoder, zero_shot=zero_shot)


def _model(folder: Path, name: str, task: Task, digit: str, **specs: Any) -> ServedModel:
    """A served model whose digests are made of ``digit``."""
    role = {"zero-shot-image-classification": "text", "image-to-text": "vision"}.get(task)
    parts = {} if role is None else {role: GraphFile(file=f"{role}.onnx", sha256=digit * 64)}
    card = ModelCard(
        name=name,
        version="1",
        task=task,
        description="A fake.",
        license="Apache-2.0",
        source="pipeline.runtime.fakes",
        variants={"int8": Variant(file="int8.onnx", sha256=digit * 64, parts=parts)},
        **specs,
    )
    return ServedModel(card=card, folder=folder)


def _text(folder: Path, max_length: int) -> TextSpec:
    """Of a model that echoes the last message. Its template is written to ``folder``."""
    (folder / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}", encoding="utf-8")
    return TextSpec(
        tokenizer="tokenizer.json",
        layers=1,
        kv_heads=1,
        head_size=1,
        vocabulary=VOCABULARY,
        max_length=max_length,
        eos_token_ids=(END_OF_TEXT,),
        chat_template="chat_template.jinja",
    )


def _image(labels: str | None) -> ImageSpec:
    return ImageSpec(height=8, width=8, channels=1, resize=8, labels=labels)


def _labels(folder: Path, classes: int) -> str:
    """Write the labels; their file's name."""
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in range(classes)), encoding="utf-8")
    return "labels.txt"
