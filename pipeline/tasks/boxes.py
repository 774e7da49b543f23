"""Candidates become objects: those that are likely enough, each once, in pixels of the image as it was sent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.runtime.session import Floats
from pipeline.tasks.labels import DECIMALS
from pipeline.tasks.pixels import View
from schemas.messages import Box, DetectedObject

__all__ = ["chosen_candidates", "detected_objects"]

PIXEL_DECIMALS = 2


def chosen_candidates(
    scores: Floats, boxes: Floats, *, threshold: float, nms_iou: float | None, most: int
) -> tuple[int, ...]:
    """The candidates to show, likeliest first; each stands for its likeliest class.

    Args:
        scores: float32 [candidates, classes].
        boxes: float32 [candidates, 4]: xmin, ymin, xmax, ymax.
        threshold: the least score.
        nms_iou: of two boxes of one class that overlap by more, the likelier stays (greedy non-maximum suppression);
            ``None`` lets all stay.
        most: how many at most.
    """
    best, classes = scores.max(axis=1), scores.argmax(axis=1)
    left = np.argsort(-best, kind="stable")
    left = left[best[left] >= threshold]
    if nms_iou is None:
        return tuple(left[:most].tolist())
    kept: list[int] = []
    while len(left) and len(kept) < most:
        place, left = int(left[0]), left[1:]
        kept.append(place)
        repeats = (classes[left] == classes[place]) & (_overlaps(boxes[place], boxes[left]) > nms_iou)
        left = left[~repeats]
    return tuple(kept)


def _overlaps(box: Floats, others: Floats) -> Floats:
    """Intersection over union of ``box`` [4] with each of ``others`` [N, 4]; 0 where neither has an area."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    union = _area(box[None]) + _area(others) - shared
    overlaps: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlaps


def _area(boxes: Floats) -> Floats:
    area: Floats = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)
    return area


def detected_objects(
    places: Sequence[int], scores: Floats, boxes: Floats, labels: Sequence[str], view: View
) -> tuple[DetectedObject, ...]:
    """The candidates at ``places``; their boxes are shares of what ``view`` shows."""
    return tuple(
        DetectedObject(
            label=labels[int(scores[place].argmax())],
            score=round(float(scores[place].max()), DECIMALS),
            box=_box(boxes[place], view),
        )
        for place in places
    )


def _box(shares: Floats, view: View) -> Box:
    left, top, right, bottom = view.box
    xmin, ymin, xmax, ymax = (float(share) for share in shares)
    return Box(
        xmin=_pixel(left + xmin * (right - left), view.width),
        ymin=_pixel(top + ymin * (bottom - top), view.height),
        xmax=_pixel(left + xmax * (right - left), view.width),
        ymax=_pixel(top + ymax * (bottom - top), view.height),
    )


def _pixel(place: float, size: int) -> float:
    """``place``, inside the image."""
    return round(min(max(place, 0.0), float(size)), PIXEL_DECIMALS)
