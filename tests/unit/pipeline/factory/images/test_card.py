"""Labels and the user's hints in the card of an image model."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.family import Hints, Source, Workbench
from pipeline.factory.images.card import FP32, image_card, labels_of, with_hints
from pipeline.factory.images.spec import PixelInput
from pipeline.models.card import DetectionSpec, ImageSpec
from pipeline.models.cardfile import read_card, write_card

SOURCE = Source(kind="huggingface", origin="tiny", license="mit")
CROPPED = PixelInput(
    image=ImageSpec(height=224, width=224, channels=3, resize=256), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)


def test_labels_come_by_number_in_order_or_are_numbered() -> None:
    assert labels_of(SOURCE, 2, {"1": "dog", "0": "cat"}) == ("cat", "dog")
    assert labels_of(SOURCE, 2, ["cat", "dog"]) == ("cat", "dog")
    assert labels_of(SOURCE, 2, {"0": "cat"}) == ("class 0", "class 1")


def test_the_users_labels_win_and_must_be_as_many(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a\nb\n")
    source = replace(SOURCE, hints=Hints(labels=tmp_path / "mine.txt"))
    assert labels_of(source, 2, ["cat", "dog"]) == ("a", "b")
    with pytest.raises(ModelError, match="has 2 labels, and the network has 3 classes"):
        labels_of(source, 3)
    with pytest.raises(ModelError, match="labels cannot be read"):
        labels_of(replace(SOURCE, hints=Hints(labels=tmp_path / "gone.txt")), 2)


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
    (tmp_path / FP32).write_bytes(b"graph")
    bench = Workbench(name="m", version="1", folder=tmp_path, scratch=tmp_path, progress=lambda _: None)
    detection = DetectionSpec()
    card = image_card(SOURCE, bench, CROPPED, ["two\nlines", "b"], description="d", detection=detection)
    write_card(card, tmp_path)
    assert read_card(tmp_path) == card
    assert (card.task, card.license, (tmp_path / "labels.txt").read_text()) == (
        "object-detection",
        "mit",
        "two lines\nb\n",
    )
