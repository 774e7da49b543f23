"""What a model is calibrated and measured on where the user gives nothing: photos and sentences, kept apart."""

from __future__ import annotations

import importlib.resources
import io
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.factory.gates.decoders import gate_texts
from pipeline.factory.progress import Progress
from pipeline.factory.samples import Sample
from pipeline.factory.sources.photos import CALIBRATION, HELD_OUT, Photo, read_photos, views
from pipeline.models.card import TextSpec
from pipeline.models.store import ServedModel
from pipeline.runtime.huggingface import open_tokenizer

__all__ = ["calibration_sentences", "default_samples", "photo_samples", "prompt_samples"]

SIDE = 256
"""Of a crop, if the model takes smaller images; what it takes otherwise."""


def default_samples(model: ServedModel, scratch: Path, progress: Progress) -> tuple[list[Sample], list[Sample]]:
    """Samples for calibration and for evaluation, of the kinds that the model reads; texts cut to what it holds.

    Args:
        model: what reads them.
        scratch: where photos are fetched to, unless the packages that carry them are installed.
        progress: told when that happens.

    Raises:
        ModelError: the photos cannot be fetched, or the tokenizer cannot be read.
    """
    card = model.card
    calibration, evaluation = list[Sample](), list[Sample]()
    if card.image is not None:
        side = max(SIDE, card.image.height, card.image.width)
        calibration += photo_samples(CALIBRATION, side, scratch, progress)
        evaluation += photo_samples(HELD_OUT, side, scratch, progress)
    if card.encoder is not None:
        codec, most = open_tokenizer(model.folder / card.encoder.tokenizer), card.encoder.max_length
        calibration += _cut(calibration_sentences(), codec.encode_whole, most)
        sentences = [text for paragraph in gate_texts() for text in _sentences(paragraph)]
        evaluation += _cut(sentences, codec.encode_whole, most)
    if card.task == "text-generation" and card.text is not None:
        calibration += prompt_samples(model, card.text, calibration_sentences())
        evaluation += prompt_samples(model, card.text, gate_texts())
    return calibration, evaluation


def prompt_samples(model: ServedModel, spec: TextSpec, texts: Sequence[str]) -> list[Sample]:
    """``texts`` cut to what a slot holds besides what begins the text and one token of an answer. Raises ModelError."""
    codec = open_tokenizer(model.folder / spec.tokenizer)
    return _cut(texts, codec.encode, spec.max_length - 1 - (spec.bos_token_id is not None))


def photo_samples(photos: Sequence[Photo], side: int, scratch: Path, progress: Progress) -> list[Sample]:
    """Twelve views of each photo, as PNG files of ``side`` x ``side`` pixels."""
    return [
        Sample(image=_png(view)) for data in read_photos(tuple(photos), scratch, progress) for view in views(data, side)
    ]


def calibration_sentences() -> list[str]:
    """Sentences of many kinds and lengths, none of which is in :func:`pipeline.factory.gates.decoders.gate_texts`."""
    file = importlib.resources.files("pipeline.factory").joinpath("samples_sentences.txt")
    return file.read_text(encoding="utf-8").splitlines()


def _cut(texts: Sequence[str], encode: Callable[[str], Sequence[int]], most: int) -> list[Sample]:
    """As much of each text as has at most ``most`` tokens, in whole words where one fits."""
    return [Sample(text=_beginning(text, encode, most)) for text in texts]


def _beginning(text: str, encode: Callable[[str], Sequence[int]], most: int) -> str:
    if len(encode(text)) <= most:
        return text
    words = [found.end() for found in re.finditer(r"\S+", text)]
    for ends in (words, range(1, len(text))):
        if fitting := bisect_right(ends, most, key=lambda end: len(encode(text[:end]))):
            return text[: ends[fitting - 1]]
    return text


def _sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph, and all of it: texts of several lengths."""
    return [*re.split(r"(?<=[.?!])\s+", paragraph), paragraph]


def _png(view: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(view).save(file, "PNG", compress_level=1)
    return file.getvalue()
