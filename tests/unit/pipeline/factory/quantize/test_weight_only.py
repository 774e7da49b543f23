"""INT8 weights and FP16, made of FP32 graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

from pipeline.factory.decoders.graph import build_decoder
from pipeline.factory.decoders.spec import DecoderSpec, weight_shapes
from pipeline.factory.graph import GraphWriter
from pipeline.factory.quantize.float16 import to_float16
from pipeline.factory.quantize.weight_only import quantize_weights

SHAPES = ("llama", "gpt2")


def a_decoder(shape: Any) -> tuple[DecoderSpec, dict[str, npt.NDArray[np.float32]]]:
    spec = DecoderSpec(
        shape=shape, layers=2, hidden=64, heads=4, kv_heads=4, head_size=16, mlp=96, vocabulary=80, max_length=32
    )
    rng = np.random.default_rng(3)
    return spec, {name: rng.normal(0, 0.2, size).astype(np.float32) for name, size in weight_shapes(spec).items()}


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
def test_int8_made_of_the_fp32_graph_is_what_the_builder_of_decoders_writes(shape: str) -> None:
    spec, weights = a_decoder(shape)
    ours = quantize_weights(build_decoder(spec, weights, "fp32"))
    built = build_decoder(spec, weights, "int8")
    np.testing.assert_array_equal(logits(ours, spec), logits(built, spec))
    assert abs(ours.ByteSize() - built.ByteSize()) < 4_000  # the tied table is there once


@pytest.mark.parametrize("shape", SHAPES)
def test_fp16_has_half_the_weights_and_caches_and_float32_logits(shape: str) -> None:
    spec, weights = a_decoder(shape)
    full = build_decoder(spec, weights, "fp32")
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
