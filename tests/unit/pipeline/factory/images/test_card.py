"""The user's hints and the card of an image model."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.family import Hints, Source, Workbench
from pipeline.factory.images.card import image_card, with_hints
from pipeline.factory.images.spec import PixelInput
from pipeline.models.card import DetectionSpec, ImageSpec, Variant
from pipeline.models.cardfile import read_card, write_card

SOURCE = Source(kind="huggingface", origin="tiny", license="mit")
CROPPED = PixelInput(
    image=ImageSpec(height=224, width=224, channels=3, resize=256), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)


def test_another_size_keeps_the_share_that_is_cut_out() -> None:
    image = with_hints(CROPPED, Hints(size=(112, 112))).image
    assert (image.height, image.width, image.resize) == (112, 112, 128)
    stretched = replace(CROPPED, image=replace(CROPPED.image, fit="stretch"))
    image = with_hints(stretched, Hints(size=(480, 640))).image
    assert (image.height, image.width, image.resize) == (480, 640, 640)


def test_the_users_normalisation_wins_and_is_counted() -> None:
    assert with_hints(CROPPED, Hints(mean=(0.0, 0.1, 0.2))).mean == (0.0, 0.1, 0.2)
    assert with_hints(CROPPED, Hints(mean=(0.5,))).mean == (0.5, 0.5, 0.5)
    with pytest.raises(ModelError, match="one number or 3 numbers each"):
        with_hints(CROPPED, Hints(std=(1.0, 1.0)))


def test_the_card_can_be_written_and_read_back(tmp_path: Path) -> None:
    bench = Workbench(name="m", version="1", folder=tmp_path, scratch=tmp_path, progress=lambda _: None)
    detection = DetectionSpec()
    variant = Variant(file="fp32.onnx", sha256="0" * 64, method="by hand")
    card = image_card(SOURCE, bench, variant, CROPPED, ["a", "b"], description="d", detection=detection)
    assert card.variants == {"fp32": variant}
    write_card(card, tmp_path)
    assert read_card(tmp_path) == card
    assert (card.task, card.license, (tmp_path / "labels.txt").read_text()) == (
        "object-detection",
        "mit",
        "a\nb\n",
    )
