"""INT8 weights in blocks: symmetric, 32 or 64 along the reduced axis, one float scale a block.

It is what ONNX Runtime's MatMulNBits and GatherBlockQuantized read with 8 bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCK", "quantize_blocks"]

BLOCK = 32
ZERO_POINT = 128


def quantize_blocks(
    weight: npt.NDArray[np.float32], block: int = BLOCK
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Quantize [out, in] to uint8 around 128 with a scale for each ``block`` of a row.

    Returns:
        the values [out, in / block, block], each 1 to 255, and the scales [out, in / block]: (value - 128) * scale.
    """
    blocks = weight.reshape(weight.shape[0], -1, block)
    scales = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(127)
    scales[scales == 0] = 1
    values = np.rint(blocks / scales) + ZERO_POINT
    return values.astype(np.uint8), scales[..., 0].astype(np.float32)
