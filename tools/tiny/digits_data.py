"""scikit-learn's handwritten digits as 8-bit pixels, split once and for all."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from pipeline.models.heldout import HeldOutDigits

__all__ = ["DigitsSplit", "read_digits"]

HELD_OUT = 360
SPLIT_SEED = 20_261_124
# The data set counts ink in 4 x 4 cells of a bitmap: 0 to 16.
FULL_CELL = 16


class DigitsSplit(Struct, frozen=True, kw_only=True):
    """Pixels uint8 [digits, 8, 8] and labels uint8 [digits] to train on, and the ones held out."""

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    held_out: HeldOutDigits


def read_digits() -> DigitsSplit:
    """1,437 digits to train on and 360 held out, each class in its share."""
    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8) * 255 / FULL_CELL).astype(np.uint8)
    train, test, train_labels, test_labels = train_test_split(
        pixels, labels.astype(np.uint8), test_size=HELD_OUT, stratify=labels, random_state=SPLIT_SEED
    )
    return DigitsSplit(pixels=train, labels=train_labels, held_out=HeldOutDigits(pixels=test, labels=test_labels))
