"""INT8 weights and FP16, made of FP32 graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from pipeline.factory.decoders.spec import DecoderSpec
from pipeline.factory.graph import GraphWriter
from pipeline.factory.quantize.float16 import to_float16
from pipeline.factory.quantize.weight_only import quantize_weights
from tests.unit.pipeline.factory.quantize.decoders import SLOTS, fp32, opened, some_ids, steps

SHAPES = ("llama", "gpt2")


def logits(model: onnx.ModelProto, spec: DecoderSpec, cache: type[np.floating[Any]] = np.float32) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    empty = np.zeros((3, spec.kv_heads, spec.max_length, spec.head_size), cache)
    feeds: dict[str, Any] = {node.name: empty for node in session.get_inputs() if node.name.startswith("past_")}
    feeds["input_ids"] = np.array([[5], [17], [79]], np.int64)
    feeds["seqlens_k"], feeds["logits_at"] = np.zeros(3, np.int32), np.zeros(3, np.int64)
    feeds["total_sequence_length"] = np.array(1, np.int32)
    return session.run(["logits"], feeds)[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_decoder_stays_close_to_fp32(tmp_path: Path, shape: str) -> None:
    spec, model = fp32(shape)
    full = steps(opened(tmp_path, spec, model), some_ids())
    ours = steps(opened(tmp_path, spec, quantize_weights(model)), some_ids())
    assert 0 < np.linalg.norm(full - ours) / np.linalg.norm(full) < 0.03, "0 would mean that nothing was quantized"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_is_bit_equal_alone_and_beside_an_outlier(tmp_path: Path, shape: str) -> None:
    """Dynamic quantization with one scale a tensor fails this."""
    spec, model = fp32(shape, outlier=1_000.0)
    decoder, ids = opened(tmp_path, spec, quantize_weights(model)), some_ids()
    ids[1] = 5
    together = steps(decoder, ids)
    for row in range(SLOTS):
        np.testing.assert_array_equal(together[:, row], steps(decoder, ids[row : row + 1], first=row)[:, 0])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_prompt_in_chunks_comes_to_what_it_does_at_once(tmp_path: Path, shape: str) -> None:
    spec, model = fp32(shape)
    decoder, ids = opened(tmp_path, spec, quantize_weights(model)), some_ids()[:1]
    whole = decoder.step(0, ids, np.array([0])).copy()
    decoder.step(1, ids[:, :4], np.array([0]))
    np.testing.assert_allclose(decoder.step(1, ids[:, 4:], np.array([4])), whole, atol=2e-3)


@pytest.mark.parametrize(("untied", "tables"), [(False, 1), (True, 2)])
def test_a_table_that_is_the_head_too_is_there_once(untied: bool, tables: int) -> None:
    _, model = fp32("llama", untied=untied)
    sizes = [list(item.dims) for item in quantize_weights(model).graph.initializer]
    assert [80, 64] in sizes, "the table"
    assert sum(int(np.prod(size)) == 80 * 64 for size in sizes) == tables


def test_the_same_weights_give_the_same_file() -> None:
    first, second = (quantize_weights(fp32("llama")[1]).SerializeToString() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("shape", SHAPES)
def test_fp16_has_half_the_weights_and_caches_and_float32_logits(shape: str) -> None:
    spec, full = fp32(shape)
    half = to_float16(full)
    assert half.ByteSize() < 0.6 * full.ByteSize()
    expected, got = logits(full, spec), logits(half, spec, np.float16)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=0.05)


def test_a_bias_and_a_width_that_is_no_multiple_of_the_block_survive() -> None:
    rng = np.random.default_rng(5)
    weight, bias = rng.normal(0, 1, (50, 7)).astype(np.float32), rng.normal(0, 1, 7).astype(np.float32)
    graph = GraphWriter("gemm")
    x = graph.input("x", "float32", ["N", 50])
    graph.node("Gemm", [x, graph.constant("w", weight), graph.constant("b", bias)], outputs=["y"])
    graph.output("y", "float32", ["N", 7])
    model = quantize_weights(graph.model("one product"))
    values = rng.normal(0, 1, (4, 50)).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": values})[0], values @ weight + bias, atol=0.25)


def test_a_mask_too_large_for_float16_becomes_its_largest_number() -> None:
    graph = GraphWriter("mask")
    x = graph.input("x", "float32", ["N", 2])
    graph.node("Add", [x, graph.constant("mask", np.array([0, -3.4e38], np.float32))], outputs=["y"])
    graph.output("y", "float32", ["N", 2])
    session = ort.InferenceSession(
        to_float16(graph.model("mask")).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    np.testing.assert_array_equal(session.run(None, {"x": np.zeros((1, 2), np.float32)})[0], [[0, -65504]])
