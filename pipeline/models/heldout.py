"""The handwritten digits that `digits-tiny` never saw, shipped so that anyone can measure its accuracy.

They are 360 of the 1,797 digits of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998, UCI
Machine Learning Repository, CC BY 4.0), as scikit-learn brings them, scaled from 0..16 to 0..255.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from PIL import Image

from pipeline.errors import ModelError

__all__ = ["HELD_OUT_FILE", "HeldOutDigits", "read_held_out_digits"]

HELD_OUT_FILE = Path(__file__).parent / "shipped" / "digits-heldout.npz"


class HeldOutDigits(Struct, frozen=True, kw_only=True):
    """Digits and what they are.

    Attributes:
        pixels: uint8 [digits, 8, 8], 0 for paper and 255 for ink.
        labels: uint8 [digits], 0 to 9.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    def png(self, index: int) -> bytes:
        """One digit as a PNG file of 8 x 8 grey pixels."""
        file = io.BytesIO()
        Image.fromarray(self.pixels[index]).save(file, "PNG")
        return file.getvalue()


def read_held_out_digits(path: Path = HELD_OUT_FILE) -> HeldOutDigits:
    """Read the shipped digits.

    Raises:
        ModelError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return HeldOutDigits(pixels=arrays["pixels"], labels=arrays["labels"])
    except Exception as error:  # numpy and zipfile raise nearly anything on damaged files
        raise ModelError(f"{path}: the held-out digits cannot be read: {error}. Install Millrace again.") from error
