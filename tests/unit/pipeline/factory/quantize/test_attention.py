"""The standard's attention in the place of ONNX Runtime's own: the same results, and each record's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from pipeline.factory.encoders.layers import Transformer
from pipeline.factory.encoders.spec import TransformerSpec
from pipeline.factory.graph import GraphWriter
from pipeline.factory.quantize.attention import with_standard_attention
from pipeline.factory.quantize.qdq import U8S8
from pipeline.factory.quantize.static import Calibrated, for_cpus, run_graph

HIDDEN, HEADS, LAYERS, LONGEST = 32, 4, 2, 70
Feeds = dict[str, npt.NDArray[Any]]


def encoder(*, lengths: bool = True, causal: bool = False) -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    spec = TransformerSpec(
        layers=LAYERS,
        hidden=HIDDEN,
        heads=HEADS,
        mlp=HIDDEN,
        activation="gelu",
        norm_first=False,
        causal=causal,
        epsilon=1e-5,
    )
    weights: dict[str, npt.NDArray[np.float32]] = {}
    for layer in range(LAYERS):
        for part in ("q", "k", "v", "o", "up", "down"):
            weights[f"layers.{layer}.{part}"] = rng.normal(0, 0.3, (HIDDEN, HIDDEN)).astype(np.float32)
            weights[f"layers.{layer}.{part}.bias"] = rng.normal(0, 0.1, HIDDEN).astype(np.float32)
        for norm in ("attn_norm", "mlp_norm"):
            weights[f"layers.{layer}.{norm}"] = np.ones(HIDDEN, np.float32)
            weights[f"layers.{layer}.{norm}.bias"] = np.zeros(HIDDEN, np.float32)
    graph = GraphWriter("encoder")
    x = graph.input("x", "float32", ["N", "S", HIDDEN])
    filled = graph.input("lengths", "int32", ["N"]) if lengths else ""
    graph.node("Identity", [Transformer(graph, spec, weights).layers(x, filled)], outputs=["y"])
    graph.output("y", "float32", ["N", "S", HIDDEN])
    return named(graph.model("for tests"))


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    for at, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{at}"
    return model


def batch(lengths: list[int], size: int, seed: int = 2) -> Feeds:
    x = np.random.default_rng(seed).normal(0, 1, (len(lengths), size, HIDDEN)).astype(np.float32)
    return {"x": x, "lengths": np.array(lengths, np.int32)}


def output(model: onnx.ModelProto, feeds: Feeds) -> npt.NDArray[np.float32]:
    (run,) = run_graph(model, [feeds])
    return run["y"]


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if "Attention" in node.op_type]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
def test_it_gives_what_it_gave_at_every_filled_place(lengths: bool, causal: bool) -> None:
    full = encoder(lengths=lengths, causal=causal)
    written = with_standard_attention(full)
    onnx.checker.check_model(written)
    assert (operators(full), operators(written)) == (["MultiHeadAttention"] * LAYERS, ["Attention"] * LAYERS)
    feeds = batch([1, 17, 64, LONGEST], LONGEST)
    before, after = output(full, feeds), output(written, feeds)
    for row, length in enumerate(feeds["lengths"] if lengths else [LONGEST] * 4):
        np.testing.assert_allclose(after[row, :length], before[row, :length], atol=2e-5)


def test_a_record_is_the_same_alone_and_in_longer_company_bit_for_bit() -> None:
    model = with_standard_attention(encoder())
    for length in (1, 2, 7, 16, 31, 33, 64):
        alone = batch([length], length, seed=length)
        expected = output(model, alone)[0]
        for size in (length + 1, length + 16, 129):
            feeds = batch([size, length, 1, size], size)
            feeds["x"][1, :length] = alone["x"][0]
            np.testing.assert_array_equal(output(model, feeds)[1, :length], expected)


def test_a_record_without_a_filled_place_spoils_no_other() -> None:
    found = output(with_standard_attention(encoder()), batch([0, 5], 5))
    assert np.isfinite(found).all()


def test_the_graph_of_somebody_else_stays_as_it_is_for_its_attention_may_be_of_any_kind() -> None:
    model = encoder()
    model.producer_name = "another"
    assert with_standard_attention(model) is model


def test_what_is_written_for_cpus_has_both_and_is_as_near_to_floats_as_its_qdq_form() -> None:
    feeds = batch([40, 40], 40)
    full = encoder()
    before = Calibrated(full, [batch([40] * 8, 40, seed=5)]).quantized(U8S8)
    written = for_cpus(before)
    assert operators(written) == ["Attention"] * LAYERS
    assert "MatMulIntegerToFloat" in {node.op_type for node in written.graph.node}
    assert {item.domain: item.version for item in written.opset_import}[""] == 23
    expected = output(full, feeds)
    errors = [float(np.abs(output(model, feeds) - expected).mean()) for model in (before, written)]
    assert errors[1] < 1.1 * errors[0]
