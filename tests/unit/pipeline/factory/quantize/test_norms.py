"""Fused norms compute what those of the FP32 graph do, within rounding."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from pipeline.factory.quantize.norms import with_fused_norms
from pipeline.factory.quantize.rebuild import rebuilt
from tests.unit.pipeline.factory.quantize.decoders import fp32, opened, some_ids, steps


def fused(model: onnx.ModelProto) -> onnx.ModelProto:
    constants = model.graph.initializer
    return rebuilt(model, with_fused_norms(model.graph.node, {item.name for item in constants}), constants)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize(
    ("shape", "more", "op", "plain"),
    [
        ("gpt2", {}, "SkipLayerNormalization", "LayerNormalization"),
        ("llama", {}, "SkipSimplifiedLayerNormalization", "SimplifiedLayerNormalization"),
        ("llama", {"biased": ("o", "down")}, "SkipSimplifiedLayerNormalization", "SimplifiedLayerNormalization"),
    ],
)
def test_every_norm_of_a_sum_becomes_one_node_with_it(
    tmp_path: Path, shape: str, more: dict[str, Any], op: str, plain: str
) -> None:
    spec, model = fp32(shape, **more)
    for node in model.graph.node:
        node.name = ""
    found = operators(fused(model))
    # Four of two layers; what goes into a GPT-2's first layer is a sum, too.
    assert (found[op], found[plain]) == ((5, 0) if shape == "gpt2" else (4, 1))
    if more or shape == "gpt2":
        assert operators(model)["Add"] - found["Add"] == (9 if shape == "gpt2" else 8), "the biases are inside"
    for folder in ("apart", "fused"):
        (tmp_path / folder).mkdir()
    apart = steps(opened(tmp_path / "apart", spec, model), some_ids())
    together = steps(opened(tmp_path / "fused", spec, fused(model)), some_ids())
    np.testing.assert_allclose(together, apart, atol=1e-5 * float(np.abs(apart).max()))
