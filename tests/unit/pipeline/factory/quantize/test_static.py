"""What static INT8 does not take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.errors import ModelError
from pipeline.factory.graph import GraphWriter
from pipeline.factory.quantize.static import quantize_static_int8


def test_a_graph_with_its_weights_beside_it_is_refused_and_what_can_be_made_is_named(tmp_path: Path) -> None:
    graph = GraphWriter("large", tmp_path / "fp32.onnx.data")
    weight = graph.constant("weight", np.ones((64, 64), np.float32))
    graph.node("MatMul", [graph.input("x", "float32", ["N", 64]), weight], outputs=["y"])
    graph.output("y", "float32", ["N", 64])
    onnx.save(graph.model("weights beside the graph"), tmp_path / "fp32.onnx")
    with pytest.raises(ModelError, match=r"fp32\.onnx: static INT8 .* over 1\.9 GB.* Make int8-weights or fp16"):
        quantize_static_int8(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", [{"x": np.ones((1, 64), np.float32)}])
