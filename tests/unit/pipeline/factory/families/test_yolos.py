"""YOLOS: scores and boxes of the graph against the framework's own post-processing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.factory.families.yolos import FAMILY
from pipeline.factory.family import Source
from pipeline.models.card import DetectionSpec, ModelCard
from tests.unit.pipeline.factory.families.vision import as_read, build, photos, run, save_model, trained

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
    pixels = photos(batch)
    with torch.no_grad():
        found = model(pixel_values=as_read(pixels, source))
    x, y, width, height = found.pred_boxes.unbind(-1)
    corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], -1).clamp(0, 1)
    graph = run(folder, pixels)
    np.testing.assert_allclose(graph["scores"], found.logits.softmax(-1)[..., :3].numpy(), atol=1e-4)
    np.testing.assert_allclose(graph["boxes"], corners.numpy(), atol=1e-4)


def test_the_card_is_a_detectors(built: Built) -> None:
    _, _, card, folder = built
    assert card.image is not None
    assert (card.task, card.detection, card.image.fit) == ("object-detection", DetectionSpec(), "stretch")
    assert (folder / "built" / "labels.txt").read_text() == "one\ntwo\nthree\n"
