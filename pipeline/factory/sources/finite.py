"""Weights must be numbers: one that is not makes every result that it enters none either."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError

__all__ = ["check_finite"]


def check_finite(weight: npt.NDArray[Any], name: str, where: str = "") -> None:
    """Raise ModelError where ``weight`` holds NaN or infinities; ``where`` is for the message, ended as it must be."""
    if not np.issubdtype(weight.dtype, np.floating) or np.isfinite(weight).all():
        return
    nans, infinite = int(np.isnan(weight).sum()), int(np.isinf(weight).sum())
    raise ModelError(
        f"{where}{name} holds {nans:,} NaN and {infinite:,} infinite numbers among its {weight.size:,}: every record "
        "would fail. The training went astray, or the file is damaged: take an earlier checkpoint, or fetch it again."
    )
