"""Rotary frequencies, plain and stretched to longer sequences than the model was first trained on.

Rotary positions: Su et al. 2021, arXiv:2104.09864. ``linear``: Chen et al. 2023, arXiv:2306.15595. ``llama3``: the
rotary embedding of Meta's Llama 3.1 reference code: waves shorter than the first training length stay, those longer are
stretched, and between the two bounds they pass from one to the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from pipeline.errors import ModelError

__all__ = ["Rope", "read_rope"]


class Rope(Struct, frozen=True, kw_only=True):
    """How far each pair of a head is turned from one position to the next.

    Attributes:
        theta: base of the frequencies.
        scaling: how they are stretched.
        factor: how much (``linear`` and ``llama3``).
        low, high: a wave that turns fewer than ``low`` times within ``original`` positions is stretched, one that turns
            more than ``high`` times is not (``llama3``).
        original: the length that the model was first trained on (``llama3``).
    """

    theta: float = 10_000.0
    scaling: Literal["none", "linear", "llama3"] = "none"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8_192

    def frequencies(self, head_size: int) -> npt.NDArray[np.float64]:
        """Radians a position of each pair, [head_size / 2]."""
        half = head_size // 2
        plain = self.theta ** (-np.arange(half, dtype=np.float64) / half)
        if self.scaling == "llama3":
            turns = self.original * plain / (2 * math.pi)
            kept = np.clip((turns - self.low) / (self.high - self.low), 0.0, 1.0)
            return kept * plain + (1 - kept) * plain / self.factor
        return plain / self.factor


def read_rope(config: Mapping[str, Any], where: str) -> Rope:
    """The rotary part of a Hugging Face ``config.json``, as transformers 4 (``rope_scaling``) or 5 writes it.

    Raises:
        ModelError: a scaling that is not known here, or one that only turns a part of each head.
    """
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = found.get("rope_type", found.get("type", "default"))
    theta = float(found.get("rope_theta", config.get("rope_theta", 10_000.0)))
    part = found.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if part not in (None, 1.0):
        raise ModelError(f"{where}: rotary positions of a part of each head ({part}) are not built.")
    if kind == "default":
        return Rope(theta=theta)
    try:
        if kind == "linear":
            return Rope(theta=theta, scaling="linear", factor=float(found["factor"]))
        if kind == "llama3":
            return Rope(
                theta=theta,
                scaling="llama3",
                factor=float(found["factor"]),
                low=float(found["low_freq_factor"]),
                high=float(found["high_freq_factor"]),
                original=int(found["original_max_position_embeddings"]),
            )
    except KeyError as error:
        raise ModelError(f"{where}: rotary scaling {kind!r} lacks {error} in config.json.") from error
    raise ModelError(f"{where}: rotary scaling {kind!r} is not built; default, linear and llama3 are.")
