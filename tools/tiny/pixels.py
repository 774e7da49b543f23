"""Scenes as the models of transformers take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tools.tiny.scenes import Scene
from tools.tiny.training import tensor_of

__all__ = ["MEAN", "STD", "pixel_values"]

MEAN, STD = 0.2, 0.3


def pixel_values(scenes: Sequence[Scene]) -> Any:
    """float32 [scenes, 3, 48, 48], normalised, grey in each channel."""
    grey = tensor_of(np.stack([scene.pixels for scene in scenes])).float() / 255
    return ((grey - MEAN) / STD).unsqueeze(1).expand(-1, 3, -1, -1)
