"""Compares the objects that two forms of a detector find: F1 of boxes that overlap by half and name the same class."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.factory.quantize.calibration import Observation
from pipeline.factory.samples import Sample
from schemas.messages import Box, DetectedObject, DetectionOutput

__all__ = ["compare_detections", "matched_f1", "right_objects"]

LEAST_IOU = 0.5


class _Right(Struct, frozen=True, kw_only=True):
    """An object that is there: ``answer`` of a detector's sample is a JSON array of these."""

    label: str
    box: tuple[float, float, float, float]


def compare_detections(
    full: Sequence[Observation], ours: Sequence[Observation], samples: Sequence[Sample]
) -> dict[str, float]:
    """``matched_f1`` of a variant's objects against FP32's; with right answers, ``f1`` and ``fp32_f1`` against these.

    A right answer is a JSON array of ``{"label": ..., "box": [xmin, ymin, xmax, ymax]}``, in pixels of the image.

    Raises:
        ModelError: an answer is not such an array.
    """
    before, after = ([_objects(one) for one in side] for side in (full, ours))
    figures = {"matched_f1": matched_f1(before, after), "objects": float(sum(map(len, before)))}
    known = [place for place, sample in enumerate(samples) if sample.answer is not None]
    if known:
        right = [right_objects(samples[place], place + 1) for place in known]
        fp32, mine = (matched_f1(right, [side[place] for place in known]) for side in (before, after))
        figures |= {"f1": mine, "fp32_f1": fp32, "f1_lost": fp32 - mine}
    return {name: round(value, 4) for name, value in figures.items()}


def matched_f1(right: Sequence[Sequence[DetectedObject]], found: Sequence[Sequence[DetectedObject]]) -> float:
    """F1 over all images; each object is matched once, the likeliest found first. 1 where there is nothing at all."""
    hits = sum(_hits(one, other) for one, other in zip(right, found, strict=True))
    total = sum(map(len, right)) + sum(map(len, found))
    return 2 * hits / total if total else 1.0


def _hits(right: Sequence[DetectedObject], found: Sequence[DetectedObject]) -> int:
    left = list(right)
    for one in found:
        same = [other for other in left if other.label == one.label and _iou(other.box, one.box) >= LEAST_IOU]
        if same:
            left.remove(max(same, key=lambda other: _iou(other.box, one.box)))
    return len(right) - len(left)


def _iou(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one.xmax, other.xmax) - max(one.xmin, other.xmin)
    height = min(one.ymax, other.ymax) - max(one.ymin, other.ymin)
    shared = max(width, 0.0) * max(height, 0.0)
    areas = sum((box.xmax - box.xmin) * (box.ymax - box.ymin) for box in (one, other))
    return shared / (areas - shared) if areas > shared else 0.0


def _objects(observation: Observation) -> tuple[DetectedObject, ...]:
    return observation.answer.objects if isinstance(observation.answer, DetectionOutput) else ()


def right_objects(sample: Sample, number: int) -> list[DetectedObject]:
    """The objects that the answer of ``sample`` says are there. Raises ModelError; ``number`` is for the message."""
    try:
        objects = msgspec.json.decode(sample.answer or "", type=list[_Right])
    except msgspec.DecodeError as error:
        where = sample.where or f"sample {number}"
        raise ModelError(f"{where}: a detector's answer is a JSON array of objects: {error}") from error
    boxes = [Box(xmin=one.box[0], ymin=one.box[1], xmax=one.box[2], ymax=one.box[3]) for one in objects]
    return [DetectedObject(label=one.label, score=1.0, box=box) for one, box in zip(objects, boxes, strict=True)]
