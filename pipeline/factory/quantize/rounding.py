"""Rounds a weight so that the errors of its columns cancel on the inputs that it really meets.

Each column is rounded in turn, and what that costs is taken up by the columns that are still free, weighed by how the
inputs go together. Source: Frantar et al., GPTQ: Accurate Post-Training Quantization (2022, arXiv:2210.17323),
algorithm 1, with the columns in their own order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["round_together"]

Array = npt.NDArray[Any]
DAMPING = 0.01
BLOCK = 128


def round_together(rows: Array, scales: Array, products: Array, limit: int, *, paired: bool) -> Array:
    """int8 [out, in], near ``rows / scales``.

    Args:
        rows: the weight [out, in].
        scales: of each row.
        products: the inputs' products [in, in]: the mean of x^T x over calibration, or their covariance.
        limit: the greatest value.
        paired: neighbours (the columns 2i and 2i + 1) may not add up to more than ``limit`` + 1 in either direction.
    """
    weights = rows.astype(np.float64) / scales[:, None]
    factor = _inverse_factor(products)
    values = np.zeros(weights.shape, np.int64)
    for start in range(0, weights.shape[1], BLOCK):
        end = min(start + BLOCK, weights.shape[1])
        errors = np.zeros((len(weights), end - start))
        for column in range(start, end):
            low, high = _bounds(values, column, limit, paired=paired)
            values[:, column] = np.clip(np.rint(weights[:, column]), low, high)
            error = (weights[:, column] - values[:, column]) / factor[column, column]
            weights[:, column + 1 : end] -= np.outer(error, factor[column, column + 1 : end])
            errors[:, column - start] = error
        weights[:, end:] -= errors @ factor[start:end, end:]
    return values.astype(np.int8)


def _bounds(values: Array, column: int, limit: int, *, paired: bool) -> tuple[Array | int, Array | int]:
    if not paired or column % 2 == 0:
        return -limit, limit
    mate = values[:, column - 1]
    return np.maximum(-limit, -limit - 1 - np.minimum(mate, 0)), np.minimum(limit, limit + 1 - np.maximum(mate, 0))


def _inverse_factor(products: Array) -> Array:
    """The upper Cholesky factor of the inverse of ``products``, whose diagonal is lifted a little."""
    lifted = products.astype(np.float64)
    diagonal = np.arange(len(lifted))
    dead = lifted[diagonal, diagonal] == 0
    lifted[diagonal[dead], diagonal[dead]] = 1
    lifted[diagonal, diagonal] += DAMPING * lifted[diagonal, diagonal].mean()
    return np.asarray(np.linalg.cholesky(np.linalg.inv(lifted)).T)
