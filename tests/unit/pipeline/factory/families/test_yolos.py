"""YOLOS: scores and boxes of the graph against the framework's own post-processing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.factory.families.yolos import FAMILY
from pipeline.factory.family import Source
from pipeline.models.card import DetectionSpec, ModelCard
from tests.unit.pipeline.factory.families.vision import build, check_detector, save_model, trained

Built = tuple[Any, Source, ModelCard, Path]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    from transformers import YolosConfig, YolosForObjectDetection

    folder = tmp_path_factory.mktemp("yolos")
    config = YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=[64, 96],
        num_detection_tokens=6,
        id2label={0: "one", 1: "two", 2: "three"},
        initializer_range=0.3,
    )
    model = trained(YolosForObjectDetection(config))
    source = save_model(model, folder / "source")
    return model, source, build(FAMILY, source, folder), folder


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_scores_and_boxes_equal_the_framework(built: Built, batch: int) -> None:
    model, source, _, folder = built
    check_detector(model, source, folder, batch)


def test_the_card_is_a_detectors(built: Built) -> None:
    _, _, card, folder = built
    assert card.image is not None
    assert (card.task, card.detection, card.image.fit) == ("object-detection", DetectionSpec(), "stretch")
    assert (folder / "built" / "labels.txt").read_text() == "one\ntwo\nthree\n"
