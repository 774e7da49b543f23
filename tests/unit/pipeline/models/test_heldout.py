from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ModelError
from pipeline.models.heldout import HeldOutDigits, read_held_out_digits


def test_a_missing_file_is_a_model_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.npz"):
        read_held_out_digits(tmp_path / "gone.npz")


def test_a_damaged_file_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"PK not a zip")
    with pytest.raises(ModelError, match="cannot be read"):
        read_held_out_digits(tmp_path / "bad.npz")


def test_a_digit_is_written_as_a_grey_png_of_its_pixels() -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    digits = HeldOutDigits(pixels=pixels, labels=np.array([3], np.uint8))
    with Image.open(io.BytesIO(digits.png(0))) as image:
        assert (image.format, image.mode) == ("PNG", "L")
        np.testing.assert_array_equal(np.asarray(image), pixels[0])
