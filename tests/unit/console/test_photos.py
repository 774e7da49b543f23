from __future__ import annotations

import importlib.util
import io

import pytest
from PIL import Image

from console.photos import PHOTOS, photo_samples
from pipeline.errors import MillraceError


def test_photos_come_whole_and_in_crops_that_are_the_same_every_time() -> None:
    first, again = photo_samples(16), photo_samples(16)
    assert first == again
    assert [sample.name for sample in first[: len(PHOTOS)]] == list(PHOTOS)
    assert len({sample.name for sample in first}) == len(PHOTOS) + 16
    with Image.open(io.BytesIO(first[-1].value)) as crop:
        assert crop.format == "JPEG"


def test_only_whole_photos_are_scored() -> None:
    assert {bool(sample.accepted) for sample in photo_samples(8)[len(PHOTOS) :]} == {False}


def test_without_the_packages_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MillraceError, match=r"chelsea\.png.*pip install '\.\[demo\]' in its folder"):
        photo_samples(1)
