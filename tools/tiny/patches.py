"""A second thing to learn from a scene: each patch of 8 x 8 pixels names the digit at its centre, and finds its box.

Captions, answers and unordered boxes say little about where a digit is read from, so a net finds out slowly; the
patches say it outright. The layer that speaks for them is thrown away after the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.nn import functional

from tools.tiny.scenes import SIZE, Scene
from tools.tiny.training import tensor_of

__all__ = ["PATCH", "SIDE", "PatchTeacher"]

PATCH = 8
SIDE = SIZE // PATCH
GROUND = 10
BOX_WEIGHT = 5.0


class PatchTeacher(nn.Module):  # type: ignore[misc]
    """The loss of what patches say: the cross-entropy of the names, and the L1 distance of the boxes."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.names = nn.Linear(hidden, GROUND + 1)
        self.boxes = nn.Linear(hidden, 4)

    def forward(self, patches: Any, scenes: Sequence[Scene]) -> Any:
        """The loss, a scalar; ``patches`` float32 [scenes, 36, hidden], row by row."""
        taught = [_labels_and_boxes(scene) for scene in scenes]
        labels = tensor_of(np.stack([labels for labels, _ in taught]))
        boxes = tensor_of(np.stack([boxes for _, boxes in taught]))
        inside = labels != GROUND
        found = functional.l1_loss(self.boxes(patches[inside]).sigmoid(), boxes[inside])
        return functional.cross_entropy(self.names(patches).flatten(0, 1), labels.flatten()) + BOX_WEIGHT * found


def _labels_and_boxes(scene: Scene) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each patch the digit whose ink its centre is in, or :data:`GROUND`, and that digit's box."""
    labels, boxes = np.full((SIDE, SIDE), GROUND, np.int64), np.zeros((SIDE, SIDE, 4), np.float32)
    centres = (np.arange(SIDE) + 0.5) / SIDE
    for label, box in zip(scene.labels, scene.boxes, strict=True):
        cells = np.ix_(abs(centres - box[1]) < box[3] / 2, abs(centres - box[0]) < box[2] / 2)
        labels[cells], boxes[cells] = label, box
    return labels.reshape(-1), boxes.reshape(-1, 4)
