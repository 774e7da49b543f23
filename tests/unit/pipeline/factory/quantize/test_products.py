"""Integer products in the place of quantized Gemms: the same results, and their rows' own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from pipeline.factory.graph import GraphWriter
from pipeline.factory.quantize.calibration import MAIN
from pipeline.factory.quantize.products import with_integer_products
from pipeline.factory.quantize.qdq import U8S8
from pipeline.factory.quantize.static import Calibrated, run_graph
from pipeline.factory.quantize.variants import Material, drafts
from pipeline.models.card import VariantName

WIDTH = 32
Feeds = dict[str, npt.NDArray[Any]]


def network(*, convolutions: int = 0, transposed: bool = False) -> onnx.ModelProto:
    """Convolutions of single pixels, two Gemms with a bias each, and one without."""
    rng = np.random.default_rng(3)
    graph = GraphWriter("network")

    def weight(name: str, shape: tuple[int, ...], size: float = 0.2) -> str:
        return graph.constant(name, rng.normal(0, size, shape).astype(np.float32))

    x = graph.node("Identity", [graph.input("x", "float32", ["N", WIDTH])])
    if convolutions:
        x = graph.reshape(x, [-1, WIDTH, 1, 1])
        for at in range(convolutions):
            inputs = [x, weight(f"kernel.{at}", (WIDTH, WIDTH, 1, 1)), weight(f"kernel.{at}.bias", (WIDTH,))]
            x = graph.node("Relu", [graph.node("Conv", inputs)])
        x = graph.reshape(x, [-1, WIDTH])
    attributes = {"transB": int(transposed)}
    for name, width in (("up", 2 * WIDTH), ("down", WIDTH)):
        shape = (WIDTH, width) if name == "up" else (2 * WIDTH, width)
        inputs = [x, weight(name, shape[::-1] if transposed else shape), weight(f"{name}.bias", (width,), 2)]
        x = graph.node("Relu", [graph.node("Gemm", inputs, attributes=attributes)])
    graph.node("Gemm", [x, weight("last", (WIDTH, WIDTH))], outputs=["y"], attributes=attributes)
    graph.output("y", "float32", ["N", WIDTH])
    return graph.model("for tests")


def batch(count: int = 8, seed: int = 4) -> Feeds:
    return {"x": np.random.default_rng(seed).normal(0, 1, (count, WIDTH)).astype(np.float32)}


def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    return Calibrated(model, [batch(64, seed=5)]).quantized(U8S8)


def output(model: onnx.ModelProto, feeds: Feeds) -> npt.NDArray[np.float32]:
    (run,) = run_graph(model, [feeds])
    return run["y"]


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("transposed", [False, True])
def test_every_quantized_gemm_becomes_a_product_with_its_bias_and_gives_what_it_gave(transposed: bool) -> None:
    full = network(transposed=transposed)
    before = quantized(full)
    after = with_integer_products(before)
    assert operators(before)["Gemm"] == 3
    found = operators(after)
    assert (found["MatMulIntegerToFloat"], found["QuantizeLinear"]) == (3, 3)
    assert not found.keys() & {"Gemm", "DequantizeLinear"}
    expected, rows = output(full, batch()), output(after, batch())
    # A bias that is not rounded may move a value over the middle between two integers.
    np.testing.assert_allclose(rows, output(before, batch()), atol=0.02 * np.abs(expected).max())
    assert np.abs(rows - expected).max() < 0.05 * np.abs(expected).max()


def test_a_row_of_it_is_the_same_alone_and_in_company() -> None:
    model = with_integer_products(quantized(network()))
    rows = output(model, batch(32))
    alone = [output(model, {"x": row[None]}) for row in batch(32)["x"]]
    np.testing.assert_array_equal(rows, np.concatenate(alone))


def test_a_layer_that_stays_in_floats_stays_a_gemm() -> None:
    calibrated = Calibrated(network(), [batch(64)])
    kept = next(node.name for node in calibrated.model.graph.node if node.op_type == "Gemm")
    found = operators(with_integer_products(calibrated.quantized(U8S8, excluded=[kept])))
    assert (found["Gemm"], found["MatMulIntegerToFloat"]) == (1, 2)


def test_a_graph_in_which_convolutions_prevail_stays_what_gpus_run_whole() -> None:
    model = quantized(network(convolutions=3))
    assert with_integer_products(model) is model
    assert operators(with_integer_products(quantized(network(convolutions=2))))["MatMulIntegerToFloat"] == 3


@pytest.mark.parametrize(("variant", "op"), [("int8", "MatMulIntegerToFloat"), ("int8-trt", "Gemm")])
def test_the_variant_for_cpus_is_so_written_and_the_one_for_tensorrt_is_not(
    tmp_path: Path, variant: VariantName, op: str
) -> None:
    onnx.save(network(), tmp_path / "fp32.onnx")
    material = Material(
        task="embeddings", graphs={MAIN: tmp_path / "fp32.onnx"}, feeds={MAIN: [batch()]}, progress=lambda _: None
    )
    draft = next(drafts(variant, material))
    assert operators(draft.graphs[MAIN])[op] == 3
