"""Outliers moved into weights: nothing changes in floats, and INT8 loses less."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from pipeline.factory.graph import GraphWriter
from pipeline.factory.quantize.qdq import U8S8
from pipeline.factory.quantize.sensitivity import layer_errors, output_error, ranked
from pipeline.factory.quantize.static import Calibrated, run_graph

WIDTH = 32
Feeds = dict[str, npt.NDArray[Any]]


def block(*, residual: bool) -> onnx.ModelProto:
    """A norm with two channels of outliers, two products of it, and with ``residual`` a sum that reads it too."""
    rng = np.random.default_rng(2)
    graph = GraphWriter("block")
    scale = np.ones(WIDTH, np.float32)
    scale[[3, 17]] = 60
    norm = [graph.constant("scale", scale), graph.constant("shift", np.zeros(WIDTH, np.float32))]
    x = graph.node("LayerNormalization", [graph.input("x", "float32", ["N", 4, WIDTH]), *norm])
    for name in ("first", "second"):
        graph.constant(name, rng.normal(0, 0.2, (WIDTH, WIDTH)).astype(np.float32))
    y = graph.node("Add", [graph.node("MatMul", [x, "first"]), graph.node("MatMul", [x, "second"])])
    graph.node("Add", [y, x] if residual else [y, y], outputs=["y"])
    graph.output("y", "float32", ["N", 4, WIDTH])
    return graph.model("for tests")


def batches(count: int = 8) -> list[Feeds]:
    rng = np.random.default_rng(4)
    return [{"x": rng.normal(0, 1, (1, 4, WIDTH)).astype(np.float32)} for _ in range(count)]


def outputs(model: onnx.ModelProto) -> Any:
    return np.concatenate([run["y"] for run in run_graph(model, batches())])


def test_smoothing_changes_nothing_in_floats_and_is_folded_into_the_norm_where_that_is_read_by_nothing_else() -> None:
    for residual in (True, False):
        model = block(residual=residual)
        smooth = Calibrated(model, batches()).smoothed(0.65).model
        np.testing.assert_allclose(outputs(smooth), outputs(model), rtol=1e-4, atol=1e-3)
        assert ("Mul" in {node.op_type for node in smooth.graph.node}) is residual


def test_int8_loses_less_of_a_smooth_graph() -> None:
    model = block(residual=False)
    plain = Calibrated(model, batches())
    full = list(run_graph(model, batches()))
    errors = [output_error(full, it.quantized(U8S8), batches()) for it in (plain, plain.smoothed(0.65))]
    assert errors[1] < 0.5 * errors[0]


def test_the_layer_that_bears_int8_worst_is_found() -> None:
    """The second of two products in a row reads a value a thousand times its others."""
    rng = np.random.default_rng(6)
    graph = GraphWriter("row")
    x = graph.input("x", "float32", ["N", 4, WIDTH])
    first = rng.normal(0, 0.2, (WIDTH, WIDTH)).astype(np.float32)
    first[:, 5] *= 1_000
    second = rng.normal(0, 0.2, (WIDTH, WIDTH)).astype(np.float32)
    second[5] /= 10_000
    inner = graph.node("MatMul", [x, graph.constant("first", first)])
    graph.node("MatMul", [inner, graph.constant("second", second)], outputs=["y"])
    graph.output("y", "float32", ["N", 4, WIDTH])
    calibrated = Calibrated(graph.model("for tests"), batches())
    errors = layer_errors(calibrated, U8S8, "minmax", batches())
    assert errors["MatMul_1"] > 10 * errors["MatMul_0"]
    assert ranked(calibrated, U8S8, "minmax", batches())[0].name == "MatMul_1"
