"""A record's result must not depend on who shares its batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnxruntime import quantization

from pipeline.errors import ModelError
from pipeline.factory.gates import measure as optimize_measure
from pipeline.factory.gates.invariance import decoder_difference, graph_difference, largest_difference
from pipeline.factory.optimize import optimize
from pipeline.factory.quantize import variants
from pipeline.factory.quantize.variants import Draft
from pipeline.models.store import ServedModel
from pipeline.runtime.fakes import FakeDecoder
from pipeline.runtime.session import CacheLayout, Floats, IntArray, Logits
from tests.unit.pipeline.factory.tiny_models import mlp_classifier, pictures, settings_for


def dynamic(model: ServedModel) -> Path:
    """What onnxruntime's dynamic quantization makes of the model's graph."""
    target = model.folder / "dynamic.onnx"
    quantization.quantize_dynamic(model.path("fp32"), target)
    return target


def test_the_gate_catches_dynamic_quantization_as_not_batch_invariant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scale is that of the whole batch: an outlier among the company rounds everybody else more coarsely."""
    model = mlp_classifier(tmp_path)
    made = onnx.load(dynamic(model))
    monkeypatch.setattr(optimize_measure, "memory_megabytes", lambda *_: None)
    monkeypatch.setitem(
        variants._MAKERS,
        "int8",
        lambda material: iter([Draft(method="dynamic", graphs={"main": made})]),
    )
    card = optimize(
        model,
        variants=("int8",),
        calibration=pictures(4),
        evaluation=pictures(40, seed=50),
        settings=settings_for(tmp_path),
    )
    rejected = card.rejected["int8"]
    assert "not batch-invariant" in rejected.reason
    assert rejected.measured["max_difference_in_other_batches"] > 0
    assert rejected.measured["sure_agreement"] >= 0.97, "its accuracy alone would have passed"
    assert "int8" not in card.variants


def test_fp32_does_not_depend_on_company(tmp_path: Path) -> None:
    model = mlp_classifier(tmp_path)
    assert largest_difference(model, "fp32", pictures(40), settings_for(tmp_path)) == 0


def test_there_is_no_verdict_without_samples(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="needs samples to be measured on"):
        largest_difference(mlp_classifier(tmp_path), "fp32", [], settings_for(tmp_path))


class Leaky(FakeDecoder):
    """Adds the number of rows to every logit."""

    def step(self, first: int, input_ids: IntArray, lengths: IntArray, image_embeds: Floats | None = None) -> Logits:
        return super().step(first, input_ids, lengths) + len(input_ids)


class Doubling:
    """A graph that doubles every number."""

    provider = "cpu"

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, Floats]:
        return {"y": 2 * feeds["x"]}


class Centring(Doubling):
    """A graph that takes the mean of the batch away."""

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, Floats]:
        return {"y": feeds["x"] - feeds["x"].mean(axis=0)}


def test_a_decoder_whose_logits_depend_on_company_is_found_out() -> None:
    layout = CacheLayout(layers=1, slots=4, kv_heads=1, max_length=16, head_size=1, vocabulary=258)
    tokens = np.arange(12).reshape(4, 3)
    assert decoder_difference(FakeDecoder(layout), tokens) == 0
    assert decoder_difference(Leaky(layout), tokens) == 3
    assert decoder_difference(Leaky(layout), tokens[:1]) == 1, "a single row gets company"


def test_a_graph_whose_rows_depend_on_company_is_found_out() -> None:
    feeds = [{"x": np.full((1, 2), number, np.float32)} for number in range(3)]
    assert graph_difference(Doubling(), feeds) == 0
    assert graph_difference(Centring(), feeds) > 0
    with pytest.raises(ModelError, match="needs samples"):
        graph_difference(Doubling(), [])
