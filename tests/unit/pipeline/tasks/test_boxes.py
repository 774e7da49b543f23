from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.tasks.boxes import chosen_candidates, detected_objects
from pipeline.tasks.pixels import View
from schemas.messages import Box

# Two boxes that share 80 % of their union, and one far away.
BOXES = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.4], [0.6, 0.6, 1, 1]], np.float32)
SCORES = np.array([[0.7, 0.1], [0.9, 0.2], [0.1, 0.8]], np.float32)


def chosen(scores: Any = SCORES, **changed: Any) -> tuple[int, ...]:
    options: dict[str, Any] = {"threshold": 0.5, "nms_iou": None, "most": 100}
    return chosen_candidates(np.array(scores, np.float32), BOXES, **(options | changed))


def test_candidates_at_the_threshold_or_above_come_likeliest_first() -> None:
    assert chosen() == (1, 2, 0)
    assert chosen([[0.75, 0], [0.5, 0], [0.25, 0]], threshold=0.5) == (0, 1)
    assert chosen(threshold=0.95) == ()


def test_equal_candidates_keep_their_order() -> None:
    assert chosen([[0.5, 0], [0.5, 0], [0.5, 0]]) == (0, 1, 2)


def test_of_two_boxes_of_one_class_that_overlap_the_likelier_stays() -> None:
    assert chosen(nms_iou=0.5) == (1, 2)
    assert chosen(nms_iou=0.8000001) == (1, 2, 0)


def test_boxes_of_different_classes_do_not_hide_each_other() -> None:
    assert chosen([[0.1, 0.7], [0.9, 0.2], [0.1, 0.8]], nms_iou=0.5) == (1, 2, 0)


def test_a_hidden_box_hides_nobody() -> None:
    boxes = np.array([[0, 0, 1, 1], [0.3, 0, 1.3, 1], [0.6, 0, 1.6, 1]], np.float32)  # each overlaps the next
    scores = np.array([[0.9], [0.8], [0.7]], np.float32)
    assert chosen_candidates(scores, boxes, threshold=0, nms_iou=0.4, most=9) == (0, 2)


@pytest.mark.parametrize("nms_iou", [None, 0.5])
def test_no_more_come_than_asked_for(nms_iou: float | None) -> None:
    assert chosen(nms_iou=nms_iou, most=1) == (1,)


def test_a_box_is_in_pixels_of_the_image_that_was_sent_and_inside_it() -> None:
    view = View(pixels=np.zeros((8, 8, 1), np.uint8), width=400, height=300, box=(50.0, 0.0, 350.0, 300.0))
    boxes = np.array([[0.25, 0.5, 0.75, 1.0], [-0.5, -0.1, 0.5, 1.5]], np.float32)
    scores = np.array([[0.25, 0.5], [0.75, 0.5]], np.float32)
    first, second = detected_objects([0, 1], scores, boxes, ["cat", "dog"], view)
    assert (first.label, first.score) == ("dog", 0.5)
    assert first.box == Box(xmin=125.0, ymin=150.0, xmax=275.0, ymax=300.0)
    assert (second.label, second.score) == ("cat", 0.75)
    assert second.box == Box(xmin=0.0, ymin=0.0, xmax=200.0, ymax=300.0)
