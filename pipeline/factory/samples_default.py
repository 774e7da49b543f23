"""What a model is calibrated and measured on where the user gives nothing: photos and sentences, kept apart."""

from __future__ import annotations

import importlib.resources
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.factory.gates.decoders import gate_texts
from pipeline.factory.progress import Progress
from pipeline.factory.samples import Sample
from pipeline.factory.sources.photos import CALIBRATION, HELD_OUT, Photo, read_photos, views
from pipeline.models.card import ModelCard

__all__ = ["calibration_sentences", "default_samples", "photo_samples"]

SIDE = 256
"""Of a crop, if the model takes smaller images; what it takes otherwise."""


def default_samples(card: ModelCard, scratch: Path, progress: Progress) -> tuple[list[Sample], list[Sample]]:
    """Samples for calibration and for evaluation, of the kinds that the model reads.

    Args:
        card: of the model.
        scratch: where photos are fetched to, unless the packages that carry them are installed.
        progress: told when that happens.

    Raises:
        ModelError: the photos cannot be fetched.
    """
    calibration, evaluation = list[Sample](), list[Sample]()
    if card.image is not None:
        side = max(SIDE, card.image.height, card.image.width)
        calibration += photo_samples(CALIBRATION, side, scratch, progress)
        evaluation += photo_samples(HELD_OUT, side, scratch, progress)
    if card.encoder is not None:
        calibration += [Sample(text=text) for text in calibration_sentences()]
        evaluation += [Sample(text=text) for paragraph in gate_texts() for text in _sentences(paragraph)]
    if card.task == "text-generation":
        calibration += [Sample(text=text) for text in calibration_sentences()]
        evaluation += [Sample(text=text) for text in gate_texts()]
    return calibration, evaluation


def photo_samples(photos: Sequence[Photo], side: int, scratch: Path, progress: Progress) -> list[Sample]:
    """Twelve views of each photo, as PNG files of ``side`` x ``side`` pixels."""
    return [
        Sample(image=_png(view)) for data in read_photos(tuple(photos), scratch, progress) for view in views(data, side)
    ]


def calibration_sentences() -> list[str]:
    """Sentences of many kinds and lengths, none of which is in :func:`pipeline.factory.gates.decoders.gate_texts`."""
    file = importlib.resources.files("pipeline.factory").joinpath("samples_sentences.txt")
    return file.read_text(encoding="utf-8").splitlines()


def _sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph, and all of it: texts of several lengths."""
    return [*re.split(r"(?<=[.?!])\s+", paragraph), paragraph]


def _png(view: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(view).save(file, "PNG", compress_level=1)
    return file.getvalue()
