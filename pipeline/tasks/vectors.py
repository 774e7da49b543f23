"""Embeddings as they travel: of unit length, each number as short as float32 can be written."""

from __future__ import annotations

import numpy as np

from pipeline.runtime.session import Floats
from schemas.errors import InferenceError
from schemas.messages import EmbeddingOutput

__all__ = ["embedding_output", "shortest", "unit"]

MOST_DIGITS, SURE_DIGITS = 9, 6
"""Significant decimal digits that tell every float32 from its neighbours, and that survive in every one."""
LEAST_POWER = -37
POWERS = 10.0 ** np.arange(MOST_DIGITS - LEAST_POWER + 1)


def embedding_output(vector: Floats) -> EmbeddingOutput:
    """What is published of an embedding [dimensions]. Raises InferenceError for one that has no direction."""
    return EmbeddingOutput(embedding=shortest(unit(vector)))


def unit(vector: Floats) -> Floats:
    """``vector`` at length 1. Raises InferenceError when it is zero or not finite."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not (np.isfinite(length) and length > 0):
        raise InferenceError("the model gave no finite embedding for this record")
    return (vector / length).astype(np.float32)


def shortest(values: Floats) -> tuple[float, ...]:
    """``values`` [D] as the numbers with the fewest decimal digits that are read back as the same float32.

    JSON has no float32: 0.1 of that kind would travel as 0.10000000149011612, nearly twice the bytes for no more
    precision. A number below 1e-37 keeps all of its digits.
    """
    exact = values.astype(np.float64)
    size = np.abs(exact)
    power = np.floor(np.log10(size, out=np.zeros_like(size), where=size > 0)).astype(np.int64).clip(LEAST_POWER)
    result = exact
    for digits in range(MOST_DIGITS, SURE_DIGITS - 1, -1):
        scale = POWERS[digits - 1 - power]
        rounded = np.rint(exact * scale) / scale
        result = np.where(rounded.astype(np.float32) == values, rounded, result)
    return tuple(result.tolist())
