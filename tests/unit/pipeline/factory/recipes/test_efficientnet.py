"""What the recipe admits, on a net of the same parts with few channels."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from pipeline.errors import ModelError
from pipeline.factory.quantize.variants import Draft
from pipeline.factory.recipes import efficientnet
from pipeline.factory.recipes.recipe import Kitchen
from tests.unit.pipeline.factory.tiny_models import LABELS, conv_classifier

SIDE = 224


def photo(seed: int) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def plain(graph: onnx.ModelProto) -> onnx.ModelProto:
    return graph


def leaky(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with a thousandth of the batch's mean added to every logit."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    (last,) = [node for node in copy.graph.node if "logits" in node.output]
    last.output[0] = "alone"
    copy.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1e-3, np.float32), "little"))
    copy.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["alone"], ["company"], keepdims=1),
            helper.make_node("Mul", ["company", "little"], ["leak"]),
            helper.make_node("Add", ["alone", "leak"], ["logits"]),
        ]
    )
    return copy


def quantize(
    folder: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[onnx.ModelProto], onnx.ModelProto]
) -> dict[str, float]:
    model = conv_classifier(folder, SIDE)
    graph = onnx.load(model.path("fp32"))
    draft = Draft(method="by hand", graphs={"main": make(graph)})
    monkeypatch.setattr(efficientnet, "drafts", lambda *_: iter([draft]))
    assert (model.folder / efficientnet.LABELS).read_text().split() == list(LABELS)
    kitchen = Kitchen(wheels={}, folder=model.folder, scratch=folder, progress=lambda _: None)
    return efficientnet._quantize(kitchen, [photo(0)], [photo(1), photo(2)])[1]


def test_the_figures_say_that_company_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = quantize(tmp_path, monkeypatch, plain)
    assert measured["max_difference_in_other_batches"] == 0
    assert measured["images"] == 24


def test_int8_that_is_near_but_not_batch_invariant_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"efficientnet-lite0: INT8 .*not batch-invariant"):
        quantize(tmp_path, monkeypatch, leaky)
