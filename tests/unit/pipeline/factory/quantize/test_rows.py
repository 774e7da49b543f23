"""INT8 products of whole rows: near FP32, and a row's result is its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.factory.graph import GraphWriter
from pipeline.factory.quantize.rows import quantize_channels, quantize_rows
from pipeline.factory.quantize.static import run_graph
from pipeline.runtime.onnx import open_session
from tests.unit.pipeline.factory.quantize.decoders import SETTINGS, SLOTS, fp32, opened, some_ids, steps


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
@pytest.mark.parametrize("least_widening", [0, 1, 2])
def test_it_stays_close_to_fp32(tmp_path: Path, shape: str, least_widening: float) -> None:
    spec, model = fp32(shape)
    full = steps(opened(tmp_path, spec, model), some_ids())
    ours = steps(opened(tmp_path, spec, quantize_rows(model, least_widening=least_widening)), some_ids())
    assert 0 < np.linalg.norm(full - ours) / np.linalg.norm(full) < 0.06


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_a_row_is_bit_equal_alone_and_beside_an_outlier(tmp_path: Path, shape: str) -> None:
    spec, model = fp32(shape, outlier=1_000.0)
    decoder, ids = opened(tmp_path, spec, quantize_rows(model)), some_ids()
    ids[1] = 5
    together = steps(decoder, ids)
    for row in range(SLOTS):
        np.testing.assert_array_equal(together[:, row], steps(decoder, ids[row : row + 1], first=row)[:, 0])


def test_a_prompt_in_chunks_equals_one_at_once(tmp_path: Path) -> None:
    spec, model = fp32("llama")
    decoder, ids = opened(tmp_path, spec, quantize_rows(model)), some_ids()[:1]
    whole = decoder.step(0, ids, np.array([0])).copy()
    decoder.step(1, ids[:, :4], np.array([0]))
    np.testing.assert_array_equal(decoder.step(1, ids[:, 4:], np.array([4])), whole)


def test_the_products_that_narrow_and_the_table_are_in_blocks(tmp_path: Path) -> None:
    _, model = fp32("llama", untied=True)
    found = Counter(node.op_type for node in quantize_rows(model, least_widening=1).graph.node)
    assert found["MatMulNBits"] == 2, "down, in each layer"
    assert found["MatMulIntegerToFloat"] == 2 * 3 + 1, "qkv, o and gate_up in each layer, and the head"
    assert (found["GatherBlockQuantized"], found["MatMul"], found["Gemm"]) == (1, 0, 0)


def test_the_largest_sums_of_two_products_fit_into_16_bits() -> None:
    """Processors without VNNI saturate there in silence."""
    values, _ = quantize_channels(np.random.default_rng(1).normal(0, 1, (40, 64)).astype(np.float32))
    assert 2 * 255 * int(np.abs(values).max()) < 2**15


def test_channels_of_zeros_and_of_one_weight_come_back(tmp_path: Path) -> None:
    rows = np.zeros((2, 8), np.float32)
    rows[1, 3] = -5
    values, scales = quantize_channels(rows)
    np.testing.assert_allclose(values * scales[:, None], rows, atol=1e-5)


@pytest.mark.parametrize("opset", [17, 21])
def test_a_bias_of_a_gemm_is_kept_in_graphs_old_and_new(tmp_path: Path, opset: int) -> None:
    rng = np.random.default_rng(5)
    weight, bias = rng.normal(0, 1, (48, 64)).astype(np.float32), rng.normal(0, 1, 64).astype(np.float32)
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> one (float[N, 48] x, float[48, 64] w, float[64] b) '
    model = onnx.parser.parse_model(text + "=> (float[N, 64] y) { y = Gemm (x, w, b) }")
    model.graph.node[0].name = "gemm"
    for name, value in (("w", weight), ("b", bias)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    del model.graph.input[1:]
    onnx.save(quantize_rows(model), tmp_path / "one.onnx")
    x = rng.normal(0, 1, (4, 48)).astype(np.float32)
    x[2] = 0
    got = open_session(tmp_path / "one.onnx", SETTINGS).run({"x": x})["y"]
    np.testing.assert_allclose(got, x @ weight + bias, atol=0.6)
    np.testing.assert_allclose(got[2], bias, atol=1e-6)


@pytest.mark.parametrize("width", [7, 64, 129])
@pytest.mark.parametrize("count", [1, 3, 33])
def test_a_row_of_zeros_is_zeros_wherever_it_stands(tmp_path: Path, width: int, count: int) -> None:
    """Its largest value is 0, and 0 / 0 no number: any integer is multiplied by 0."""
    text = f'<ir_version: 10, opset_import: ["" : 21]> one (float[N, S, {width}] x, float[{width}, 40] w) '
    model = onnx.parser.parse_model(text + "=> (float[N, S, 40] y) { y = MatMul (x, w) }")
    model.graph.node[0].name = "product"
    rng = np.random.default_rng(5)
    model.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(0, 1, (width, 40)).astype(np.float32), "w"))
    del model.graph.input[1:]
    onnx.save(quantize_rows(model), tmp_path / "one.onnx")
    session, x = open_session(tmp_path / "one.onnx", SETTINGS), rng.normal(0, 1, (2, count, width)).astype(np.float32)
    others = session.run({"x": x})["y"]
    for place in range(count):
        zeroed, expected = x.copy(), others.copy()
        zeroed[1, place] = expected[1, place] = 0
        np.testing.assert_array_equal(session.run({"x": zeroed})["y"], expected)


@pytest.mark.parametrize(("width", "size"), [(128, 64), (96, 32), (80, 32)])
def test_what_is_left_to_blocks_has_blocks_of_64_where_rows_are_whole_ones(width: int, size: int) -> None:
    rng = np.random.default_rng(5)
    graph = GraphWriter("narrows")
    weight = graph.constant("weight", rng.normal(0, 0.2, (width, 16)).astype(np.float32))
    graph.node("MatMul", [graph.input("x", "float32", ["N", width]), weight], outputs=["y"])
    graph.output("y", "float32", ["N", 16])
    full = graph.model("for tests")
    blocks = quantize_rows(full, least_widening=1)
    (node,) = blocks.graph.node
    assert {item.name: item.i for item in node.attribute}["block_size"] == size
    x = rng.normal(0, 1, (8, width)).astype(np.float32)
    (expected,), (together,) = (run_graph(model, [{"x": x}]) for model in (full, blocks))
    np.testing.assert_allclose(together["y"], expected["y"], atol=0.02 * np.abs(expected["y"]).max())
    for at, alone in enumerate(run_graph(blocks, [{"x": row[None]} for row in x])):
        np.testing.assert_array_equal(alone["y"][0], together["y"][at])
