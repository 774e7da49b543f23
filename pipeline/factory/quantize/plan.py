"""Which tensors of a graph are quantized: layers with constant weights, and what stands between convolutions.

Two rules. A matrix product (MatMul, Gemm) reads a quantized input and writes floats: what transformers do between their
products (norms, softmax, residual sums) stays in floats. A convolution also writes a quantized output, and pools, sums
and activations between convolutions stay quantized, so that ONNX Runtime never leaves integers inside a network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import onnx
from msgspec import Struct
from onnx import numpy_helper

__all__ = ["Layer", "Plan", "find_layers", "plan_quantization"]

# Operators that ONNX Runtime's CPU provider runs on integers when all around them is quantized.
BETWEEN = frozenset({"Add", "AveragePool", "Concat", "GlobalAveragePool", "LeakyRelu", "Mul", "Sigmoid"})
# Operators that move values and change none: their output keeps the input's scale.
MOVES = frozenset({"Flatten", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
# Nodes that saturation can stand for.
CUTS = frozenset({"Clip", "Relu"})
WEIGHT_AXIS = {"Conv": 0, "MatMul": 1}


class Layer(Struct, frozen=True, kw_only=True):
    """A node that multiplies by a constant.

    Attributes:
        name: of the node.
        weight: the constant's name.
        axis: of the weight, along which the output channels lie.
        output: the tensor that its integers become: behind a Relu or Clip that the scale can stand for.
        grouped: a convolution of some channels at a time; ``depthwise``, of each channel by itself.
        parameters: how many weights it has.
    """

    name: str
    op: str
    input: str
    weight: str
    bias: str | None
    axis: int
    output: str
    grouped: bool
    depthwise: bool
    parameters: int


class Plan(Struct, frozen=True, kw_only=True):
    """What is quantized.

    Attributes:
        layers: whose products run on integers.
        tensors: that get a scale, and the tensor whose range it is taken from (another one behind a move).
        whole: those of them whose every reader gets the quantized values, not the layers alone.
        absorbed: Relu and Clip nodes that saturation stands for, where the scale is unsigned.
    """

    layers: tuple[Layer, ...]
    tensors: dict[str, str]
    whole: frozenset[str]
    absorbed: frozenset[str]


def find_layers(model: onnx.ModelProto) -> list[Layer]:
    """The Conv, Gemm and MatMul nodes whose weight is an initializer, in the order they run."""
    graph = _Graph(model)
    return [
        Layer(
            name=node.name,
            op=node.op_type,
            input=node.input[0],
            weight=node.input[1],
            bias=node.input[2] if len(node.input) > 2 and node.input[2] else None,
            axis=WEIGHT_AXIS.get(node.op_type, 1 - _attribute(node, "transB", 0)),
            output=graph.behind_activation(node.output[0]),
            grouped=_attribute(node, "group", 1) > 1,
            depthwise=_is_depthwise(node, graph.constants[node.input[1]].dims),
            parameters=int(np.prod(graph.constants[node.input[1]].dims)),
        )
        for node in model.graph.node
        if _is_layer(node, graph.constants)
    ]


def plan_quantization(model: onnx.ModelProto, excluded: Collection[str] = (), *, outputs: bool = True) -> Plan:
    """Quantize every layer but the ``excluded`` nodes.

    Args:
        model: its nodes have names.
        excluded: names of layers, and of nodes between them, that stay in floats.
        outputs: whether what convolutions write is quantized too, as ONNX Runtime's CPU provider wants it. TensorRT
            wants the inputs of layers alone, and one side of a sum.
    """
    layers = tuple(layer for layer in find_layers(model) if layer.name not in excluded)
    able = _able(model, layers, excluded)
    tensors = {layer.input: layer.input for layer in layers}
    if outputs:
        tensors |= {layer.output: layer.output for layer in layers if layer.op == "Conv"}
        _add_between(model, able, tensors)
    else:
        _add_sums(model, able, tensors)
    _share_scales(model, able, tensors)
    whole = frozenset(name for name in tensors if name in able)
    absorbed = {node.name for node in model.graph.node if node.op_type in CUTS and node.output[0] in whole}
    return Plan(layers=layers, tensors=tensors, whole=whole, absorbed=frozenset(absorbed))


def _able(model: onnx.ModelProto, layers: Iterable[Layer], excluded: Collection[str]) -> dict[str, str]:
    """Tensors that can be quantized at no loss of speed, and the node that makes each of them."""
    graph = _Graph(model)
    able = {layer.output: layer.name for layer in layers if layer.op == "Conv"}
    for node in model.graph.node:
        moves = node.op_type in MOVES
        kept = (not moves and node.op_type not in BETWEEN) or node.name in excluded
        if not kept and all(name in able for name in (node.input[:1] if moves else node.input)):
            able[graph.behind_activation(node.output[0])] = node.name
    return able


def _add_between(model: onnx.ModelProto, able: dict[str, str], tensors: dict[str, str]) -> None:
    """Backwards from what is quantized: the inputs of the nodes that make it, where these can be quantized."""
    made = {node: tensor for tensor, node in able.items()}
    for node in reversed(model.graph.node):
        if made.get(node.name) in tensors and node.op_type != "Conv":
            tensors |= {name: name for name in node.input if name in able}


def _add_sums(model: onnx.ModelProto, able: dict[str, str], tensors: dict[str, str]) -> None:
    for node in model.graph.node:
        able_sum = node.op_type == "Add" and all(name in able for name in node.input)
        if able_sum and not any(name in tensors for name in node.input):
            tensors[node.input[1]] = node.input[1]


def _share_scales(model: onnx.ModelProto, able: dict[str, str], tensors: dict[str, str]) -> None:
    for node in model.graph.node:
        if node.op_type in MOVES and node.input[0] in able and {node.input[0], node.output[0]} <= tensors.keys():
            tensors[node.output[0]] = tensors[node.input[0]]


def _is_layer(node: Any, constants: dict[str, Any]) -> bool:
    if node.domain not in {"", "ai.onnx"} or len(node.input) < 2 or node.input[1] not in constants:
        return False
    if node.op_type == "Conv":
        return len(node.input) < 3 or not node.input[2] or node.input[2] in constants
    if node.op_type == "MatMul":
        return len(constants[node.input[1]].dims) == 2
    return node.op_type == "Gemm" and _is_plain_gemm(node, constants)


def _is_plain_gemm(node: Any, constants: dict[str, Any]) -> bool:
    factors = {item.name: item.f for item in node.attribute if item.name in {"alpha", "beta"}}
    biased = len(node.input) > 2 and bool(node.input[2])
    if biased and (node.input[2] not in constants or len(constants[node.input[2]].dims) != 1):
        return False
    return all(value == 1 for value in factors.values()) and not _attribute(node, "transA", 0)


def _is_depthwise(node: Any, weight: Any) -> bool:
    return bool(node.op_type == "Conv" and weight[1] == 1 and weight[0] == _attribute(node, "group", 1) > 1)


class _Graph:
    """Who reads what."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.constants = {item.name: item for item in model.graph.initializer}
        self._outputs = {item.name for item in model.graph.output}
        self._readers: dict[str, list[Any]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self._readers[name].append(node)

    def behind_activation(self, output: str) -> str:
        """The output of a Relu or Clip that alone reads ``output`` and cuts at 0; else ``output`` itself."""
        readers = self._readers[output]
        alone = output not in self._outputs and len(readers) == 1
        return str(readers[0].output[0]) if alone and self._cuts_at_zero(readers[0]) else output

    def _cuts_at_zero(self, node: Any) -> bool:
        if node.op_type != "Clip":
            return bool(node.op_type == "Relu")
        low = self.constants.get(node.input[1]) if len(node.input) > 1 else None
        return low is not None and not numpy_helper.to_array(low).any()


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), default)
