"""The trained net as an ONNX graph, batch norms folded."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from pipeline.factory.graph import GraphWriter

__all__ = ["build_digits_graph"]

Floats = npt.NDArray[np.float32]


def build_digits_graph(net: Any) -> onnx.ModelProto:
    """Write ``image`` float32 [N, 1, 8, 8] in [0, 1] to ``logits`` float32 [N, 10].

    Raises:
        ValueError: the net has a layer that this writer does not know.
    """
    graph = GraphWriter("digits-tiny")
    x = graph.input("image", "float32", ["N", 1, 8, 8])
    layers = list(net)
    for index, layer in enumerate(layers):
        kind = type(layer).__name__
        if kind == "Conv2d":
            x = _conv(graph, x, layer, layers[index + 1], f"conv{index}")
        elif kind == "MaxPool2d":
            x = graph.node("MaxPool", [x], attributes={"kernel_shape": [2, 2], "strides": [2, 2]})
        elif kind in {"ReLU", "Flatten"}:
            x = graph.node("Relu" if kind == "ReLU" else "Flatten", [x])
        elif kind == "Linear":
            _classify(graph, x, layer)
        elif kind not in {"BatchNorm2d", "Dropout"}:
            raise ValueError(f"digits-tiny: no ONNX form is known for {kind}.")
    return graph.model("handwritten digits, written by Millrace")


def _conv(graph: GraphWriter, x: str, conv: Any, norm: Any, name: str) -> str:
    """The convolution with the batch norm after it: w * s and (b - mean) * s + beta, s = gamma / sqrt(var + eps)."""
    scale = _array(norm.weight) / np.sqrt(_array(norm.running_var) + np.float32(norm.eps))
    weight = _array(conv.weight) * scale[:, None, None, None]
    bias = (_array(conv.bias) - _array(norm.running_mean)) * scale + _array(norm.bias)
    names = [graph.constant(name, weight), graph.constant(f"{name}.bias", bias)]
    return graph.node("Conv", [x, *names], attributes={"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]})


def _classify(graph: GraphWriter, x: str, linear: Any) -> None:
    weight, bias = _array(linear.weight), _array(linear.bias)
    names = [graph.constant("classifier", np.ascontiguousarray(weight.T)), graph.constant("classifier.bias", bias)]
    graph.node("Gemm", [x, *names], outputs=["logits"])
    graph.output("logits", "float32", ["N", len(bias)])


def _array(tensor: Any) -> Floats:
    array: Floats = tensor.detach().numpy().astype(np.float32)
    return array
