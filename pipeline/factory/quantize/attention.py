"""Writes the attention of our encoders as the operator that ONNX Runtime's CPU provider is fastest at.

Its MultiHeadAttention takes 1.5 times as long as the Attention of ONNX opset 23 (ONNX Runtime 1.31), BERT-base in INT8
as a whole 1.08 times. A record's result stays the same alone and in company, bit for bit. It is written for CPUs alone:
what GPUs make of it was not tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.factory.graph import PRODUCER
from pipeline.factory.quantize.rebuild import rebuilt

__all__ = ["with_standard_attention"]

OPSET, IR_VERSION = 23, 11
CONTRIB_ATTENTION = "MultiHeadAttention"
LENGTHS = 4
"""The input that says how many places of a row are filled, from the left."""
PREFIX = "standard_attention."


def with_standard_attention(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with its MultiHeadAttention nodes so written; a graph that is not ours as it is: its may be any."""
    attentions = [node for node in model.graph.node if node.op_type == CONTRIB_ATTENTION]
    if model.producer_name != PRODUCER or not attentions:
        return model
    masks: dict[str, str] = {}
    nodes: list[Any] = []
    for node in model.graph.node:
        if node.op_type != CONTRIB_ATTENTION:
            nodes.append(node)
            continue
        lengths = node.input[LENGTHS] if len(node.input) > LENGTHS else ""
        if lengths and lengths not in masks:
            masks[lengths] = f"{PREFIX}mask.{lengths}"
            nodes.extend(_mask(node.input[0], lengths, masks[lengths]))
        nodes.append(_standard(node, masks.get(lengths, "")))
    constants = [numpy_helper.from_array(value, f"{PREFIX}{name}") for name, value in CONSTANTS.items()]
    copy = rebuilt(model, nodes, [*model.graph.initializer, *(constants if masks else [])])
    copy.ir_version = max(copy.ir_version, IR_VERSION)
    for item in copy.opset_import:
        if item.domain in ("", "ai.onnx"):
            item.version = max(item.version, OPSET)
    return copy


def _standard(node: Any, mask: str) -> Any:
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    heads, causal = attributes["num_heads"], attributes.get("unidirectional", 0)
    inputs = [*node.input[:3], mask] if mask else node.input[:3]
    return helper.make_node(
        "Attention", inputs, node.output, name=node.name, q_num_heads=heads, kv_num_heads=heads, is_causal=causal
    )


CONSTANTS = {
    "zero": np.array(0, np.int64),
    "one": np.array(1, np.int64),
    "row": np.array([1], np.int64),
    "axes": np.array([1, 2, 3], np.int64),
    "seen": np.array(0, np.float32),
    "unseen": np.array(np.finfo(np.float32).min),
}


def _mask(query: str, lengths: str, output: str) -> Iterator[Any]:
    """What is added to the scores: float32 [N, 1, S, S], 0 at the filled places of ``lengths`` [N], else its least.

    A mask that is broadcast over the rows takes ONNX Runtime longer than one that has them all.
    """

    def node(op: str, inputs: list[str], name: str, **attributes: Any) -> Any:
        return helper.make_node(op, inputs, [name], name=name, **attributes)

    def own(name: str) -> str:
        return f"{output}.{name}"

    zero, one, row, axes, seen, unseen = (f"{PREFIX}{name}" for name in CONSTANTS)
    yield node("Shape", [query], own("size"), start=1, end=2)
    yield node("Squeeze", [own("size")], own("count"))
    yield node("Range", [zero, own("count"), one], own("places"))
    yield node("Cast", [lengths], own("int64"), to=TensorProto.INT64)
    yield node("Unsqueeze", [own("int64"), axes], own("ends"))
    yield node("Less", [own("places"), own("ends")], own("filled"))
    yield node("Where", [own("filled"), seen, unseen], own("of_keys"))
    yield node("Concat", [row, row, own("size"), row], own("rows"), axis=0)
    yield node("Expand", [own("of_keys"), own("rows")], output)
