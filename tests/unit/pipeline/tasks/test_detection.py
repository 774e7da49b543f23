from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.models.card import DetectionSpec
from pipeline.runtime.fakes import FakeBackend, FakeSession, fake_detector
from pipeline.tasks.task import Answer
from schemas.errors import InferenceError
from schemas.messages import Box, DetectedObject, DetectionOutput
from tests.unit.pipeline.helpers import answers, image_request, opened, png


def objects(answer: Answer) -> tuple[DetectedObject, ...]:
    assert isinstance(answer.output, DetectionOutput)
    return answer.output.objects


def test_an_object_has_its_label_its_score_and_its_box_in_the_images_pixels(tmp_path: Path) -> None:
    (answer,) = answers(opened(fake_detector(tmp_path)), image_request(data=png(7, size=(200, 100))))
    box = Box(xmin=75.0, ymin=25.0, xmax=125.0, ymax=75.0)
    assert objects(answer) == (DetectedObject(label="7", score=1.0, box=box),)
    assert answer.usage is None


def test_the_request_may_set_the_threshold_and_how_many_come(tmp_path: Path) -> None:
    model = opened(fake_detector(tmp_path))
    both, one, none = answers(
        model,
        image_request(7, threshold=0.5),
        image_request(7, threshold=0.5, top_k=1),
        image_request(7, threshold=0.0, top_k=1),
    )
    assert [item.score for item in objects(both)] == [1.0, 0.5]
    assert objects(one) == objects(none) == objects(both)[:1]


def test_boxes_of_one_class_are_thinned_out_only_where_the_card_says_so(tmp_path: Path) -> None:
    model = fake_detector(tmp_path)
    thinned = replace(model, card=replace(model.card, detection=DetectionSpec(threshold=0.5, nms_iou=0.9)))
    assert len(objects(answers(opened(model), image_request(7, threshold=0.5))[0])) == 2
    assert len(objects(answers(opened(thinned), image_request(7))[0])) == 1


class Odd(FakeBackend):
    """Replaces outputs of its sessions."""

    def __init__(self, **outputs: Any) -> None:
        super().__init__()
        self._outputs = outputs

    def open_session(self, path: Path) -> FakeSession:
        outputs = self._outputs

        class Session(FakeSession):
            def run(self, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
                return {**super().run(feeds), **outputs}

        return Session(10)


def test_a_box_that_is_no_number_is_the_records_error(tmp_path: Path) -> None:
    model = opened(fake_detector(tmp_path), Odd(boxes=np.full((1, 2, 4), np.nan, np.float32)))
    with pytest.raises(InferenceError, match="no finite scores or boxes"):
        answers(model, image_request())


@pytest.mark.parametrize(
    "outputs", [{"scores": np.zeros((1, 2, 9), np.float32)}, {"boxes": np.zeros((1, 3, 4), np.float32)}]
)
def test_a_graph_that_does_not_fit_the_labels_stops_the_start(tmp_path: Path, outputs: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="has 10 labels"):
        opened(fake_detector(tmp_path), Odd(**outputs))
