"""Takes the mean error of rounded weights out of an INT8 graph, by its biases.

Rounding a weight by dW shifts the output's mean by dW times the mean input. With few weights a channel (depthwise
convolutions) these shifts do not cancel, and most of the loss of EfficientNet-Lite comes from them. Source: Nagel et
al., Data-Free Quantization Through Weight Equalization and Bias Correction (2019), section 4.2, with measured means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from pipeline.factory.quantize.ranges import Probe, with_probes

__all__ = ["MEAN", "correct_biases", "with_input_means"]

MEAN = "input_mean_of:"
Array = npt.NDArray[Any]


def with_input_means(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose only outputs are the mean inputs [channels] of each Conv and Gemm: :data:`MEAN` + node name."""
    ranks = {item.name: len(item.dims) for item in model.graph.initializer}
    probes = [
        Probe(MEAN + node.name, "ReduceMean", node.input[0], (0, *range(2, ranks[node.input[1]])))
        for node in _linear(model)
    ]
    return with_probes(model, probes)


def correct_biases(full: onnx.ModelProto, quantized: onnx.ModelProto, means: Mapping[str, Array]) -> None:
    """Change the biases of ``quantized``, a QDQ graph made from ``full``; nodes keep their names in it.

    Layers that stayed in floats are left alone.

    Args:
        full: the FP32 graph.
        quantized: changed in place.
        means: the mean input [channels] of each Conv and Gemm, by node name.
    """
    weights = {item.name: item for item in full.graph.initializer}
    tensors = {item.name: item for item in quantized.graph.initializer}
    dequantize = {node.output[0]: node for node in quantized.graph.node if node.op_type == "DequantizeLinear"}
    ours = {node.name: node for node in _linear(quantized)}
    for node in _linear(full):
        weight, bias = ours[node.name].input[1:3]
        if weight in dequantize:
            error = numpy_helper.to_array(weights[node.input[1]]) - _dequantized(dequantize[weight], tensors)
            _add(bias, dequantize, tensors, _SHIFTS[node.op_type](node, error, means[node.name]))


def _linear(model: onnx.ModelProto) -> list[Any]:
    """The Conv and Gemm nodes with a constant weight and a bias (or what became of these: DequantizeLinear)."""
    made = {name for node in model.graph.node if node.op_type != "DequantizeLinear" for name in node.output}
    fed = made | {item.name for item in model.graph.input}
    return [
        node
        for node in model.graph.node
        if node.op_type in _SHIFTS and len(node.input) == 3 and not fed & set(node.input[1:])
    ]


def _dequantized(node: Any, tensors: Mapping[str, Any]) -> Array:
    values, scale = (numpy_helper.to_array(tensors[name]) for name in node.input[:2])
    if scale.ndim and scale.size > 1:
        shape = [1] * values.ndim
        shape[_attribute(node, "axis", 1)] = scale.size
        scale = scale.reshape(shape)
    return np.asarray(values.astype(np.float32) * scale)


def _add(bias: str, dequantize: Mapping[str, Any], tensors: Mapping[str, Any], shift: Array) -> None:
    name = bias
    if bias in dequantize:
        name, scale = dequantize[bias].input[:2]
        shift = np.rint(shift / numpy_helper.to_array(tensors[scale]))
    values = numpy_helper.to_array(tensors[name])
    tensors[name].CopyFrom(numpy_helper.from_array((values + shift).astype(values.dtype), name))


def _shift_of_conv(node: Any, error: Array, mean: Array) -> Array:
    groups = _attribute(node, "group", 1)
    summed = error.sum(axis=tuple(range(2, error.ndim))).reshape(groups, -1, error.shape[1])
    return np.asarray(np.einsum("goi,gi->go", summed, mean.reshape(groups, -1)).reshape(-1))


def _shift_of_gemm(node: Any, error: Array, mean: Array) -> Array:
    return np.asarray(mean @ (error.T if _attribute(node, "transB", 0) else error))


_SHIFTS: dict[str, Callable[[Any, Array, Array], Array]] = {"Conv": _shift_of_conv, "Gemm": _shift_of_gemm}


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), default)
