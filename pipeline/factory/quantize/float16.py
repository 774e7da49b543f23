"""FP16 of a graph, for GPUs: weights, activations and KV caches are float16, inputs and outputs stay as they were.

Written here because converters keep past and present in float32, and the cache is what a decoder's memory goes to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.factory.quantize.norms import with_fused_norms
from pipeline.factory.quantize.rebuild import rebuilt

__all__ = ["METHOD", "to_float16"]

METHOD = "weights, activations and caches in float16"
# A cache is read and written in place: nothing may stand between it and the attention.
CACHES = ("past_", "present_")
# Inputs that are float32 whatever the rest is: Resize's region and scales.
FLOAT32_INPUTS = {"Resize": (1, 2)}
# Of the graphs that we write.
ATTENTION = ("GroupQueryAttention", "MultiHeadAttention")
LARGEST = float(np.finfo(np.float16).max)


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in float16, norms of ours fused. Inputs and outputs in float32 are cast, but for past_... and present_...

    Constants beyond what float16 holds, such as the -3.4e38 of masks, become its largest numbers.
    """
    kept = {node.input[i] for node in model.graph.node for i in FLOAT32_INPUTS.get(node.op_type, ()) if _has(node, i)}
    constants = [item if item.name in kept else _halved(item) for item in model.graph.initializer]
    nodes: Iterable[Any] = model.graph.node
    if any(node.op_type in ATTENTION for node in nodes):  # others may norm what has more axes than a fused norm takes
        nodes = with_fused_norms(nodes, {item.name for item in constants})
    copy = rebuilt(model, (_halved_node(node) for node in nodes), constants)
    casts = _cast_inputs(copy.graph), _cast_outputs(copy.graph)
    nodes = [*casts[0], *copy.graph.node, *casts[1]]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _has(node: Any, index: int) -> bool:
    return len(node.input) > index


def _halved(tensor: Any) -> Any:
    if tensor.data_type != TensorProto.FLOAT:
        return tensor
    values = np.clip(numpy_helper.to_array(tensor), -LARGEST, LARGEST)
    return numpy_helper.from_array(values.astype(np.float16), tensor.name)


def _halved_node(node: Any) -> Any:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for attribute in copy.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            attribute.t.CopyFrom(_halved(attribute.t))
        elif (node.op_type, attribute.name) == ("Cast", "to") and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
    return copy


def _to_cast(items: Any) -> list[Any]:
    """The inputs or outputs in float32 that stay so; the caches among them become float16."""
    floats = [item for item in items if item.type.tensor_type.elem_type == TensorProto.FLOAT]
    for item in floats:
        if item.name.startswith(CACHES):
            item.type.tensor_type.elem_type = TensorProto.FLOAT16
    return [item for item in floats if not item.name.startswith(CACHES)]


def _cast_inputs(graph: Any) -> list[Any]:
    """A Cast behind each input in float32 but the caches, whose readers get its output."""
    casts = []
    for item in _to_cast(graph.input):
        half = f"{item.name}_float16"
        for node in graph.node:
            node.input[:] = [half if name == item.name else name for name in node.input]
        casts.append(helper.make_node("Cast", [item.name], [half], name=f"Cast of {half}", to=TensorProto.FLOAT16))
    return casts


def _cast_outputs(graph: Any) -> list[Any]:
    """A Cast before each output in float32 but the caches."""
    casts = []
    for item in _to_cast(graph.output):
        half = f"{item.name}_float16"
        for node in graph.node:
            node.input[:] = [half if name == item.name else name for name in node.input]
            node.output[:] = [half if name == item.name else name for name in node.output]
        casts.append(helper.make_node("Cast", [half], [item.name], name=f"Cast of {item.name}", to=TensorProto.FLOAT))
    return casts
