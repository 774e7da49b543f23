from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pipeline.factory.encoder_smooth import smoothed
from pipeline.factory.graph import GraphWriter
from pipeline.factory.quantize import Calibrated, run_graph
from pipeline.factory.quantize_graph import U8S8

CHANNELS, OUTLIER = 64, 5


def network(*, outlier: float = 40.0, tied: bool = False) -> onnx.ModelProto:
    """Two products that read one norm, whose channel 5 is ``outlier`` times as large; ``tied`` by one weight."""
    rng = np.random.default_rng(1)
    graph = GraphWriter("test")
    scale = np.ones(CHANNELS, np.float32)
    scale[OUTLIER] = outlier
    x = graph.input("x", "float32", ["N", CHANNELS])
    normed = graph.node("LayerNormalization", [x, graph.constant("scale", scale)], attributes={"axis": -1})
    weights = [rng.normal(0, 0.1, (CHANNELS, 8)).astype(np.float32) for _ in range(2)]
    names = [graph.constant(f"w{index}", weight) for index, weight in enumerate(weights)]
    products = [graph.node("MatMul", [normed, name]) for name in ([names[0]] * 2 if tied else names)]
    graph.node("Add", products, outputs=["y"])
    graph.output("y", "float32", ["N", 8])
    return graph.model("for a test")


def batches() -> list[dict[str, Any]]:
    rng = np.random.default_rng(2)
    return [{"x": rng.normal(0, 1, (16, CHANNELS)).astype(np.float32)} for _ in range(3)]


def output(model: onnx.ModelProto) -> Any:
    return np.concatenate([values["y"] for values in run_graph(model, batches())])


def test_a_smoothed_graph_computes_the_same_and_loses_less_in_int8() -> None:
    model = network()
    without_outliers = smoothed(model, batches())
    onnx.checker.check_model(without_outliers)
    wanted = output(model)
    np.testing.assert_allclose(output(without_outliers), wanted, atol=1e-5)
    plain, ours = (Calibrated(one, batches()).quantized(U8S8) for one in (model, without_outliers))
    assert np.abs(output(ours) - wanted).mean() < np.abs(output(plain) - wanted).mean() / 2


def test_products_of_one_input_share_one_division() -> None:
    nodes = smoothed(network(), batches()).graph.node
    assert [node.op_type for node in nodes] == ["LayerNormalization", "Mul", "MatMul", "MatMul", "Add"]
    factors = next(item for item in smoothed(network(), batches()).graph.initializer if item.name.endswith("smoothing"))
    values = numpy_helper.to_array(factors)
    assert values.argmin() == OUTLIER
    assert values[OUTLIER] < 0.2


@pytest.mark.parametrize("more", [{"outlier": 1.0}, {"tied": True}], ids=["no outlier", "a weight of two readers"])
def test_what_needs_no_smoothing_or_cannot_have_it_stays_as_it_is(more: dict[str, Any]) -> None:
    assert smoothed(network(**more), batches()) == network(**more)
