"""Reads prompts in floats from a KV cache in INT8: an ``If`` around every attention of a decoder.

A step of decoding waits for memory, and ONNX Runtime's GroupQueryAttention (1.31) takes an INT8 cache as it is, row by
row. For the many rows of a prompt that is slow. So where several tokens of one text are read at once, they are put into
the cache first; the attention then reads what is cached, back in floats, as fast as a float cache.

However a prompt is cut, its result is the same, bit for bit: each token reads what is cached, and adds it up in the
order of the text. That holds for pieces of two tokens and more. One alone is a step, whose sums have another order, so
:mod:`pipeline.tasks.decoding` reads no token of a prompt alone.

Nothing is copied: ONNX Runtime hands the memory that the graph's outputs are bound to on to the branches of an ``If``,
and ScatterND writes in place where that is the memory of its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.factory.graph import CONTRIB
from pipeline.factory.quantize.rebuild import rebuilt

__all__ = ["with_prompts_in_floats"]

ATTENTION = "GroupQueryAttention"
# What the attention of a prompt finds done already.
DONE_BEFORE = ("do_rotary", "rotary_interleaved", "k_quant_type", "v_quant_type", "kv_cache_bit_width")
KEY_SCALES = 12
IS_PROMPT = "prompt.is"
# Tokens in the cache before a step and after it, each [1], and where its rows go, [1, kv_heads, S, 3].
BEFORE, AFTER, ROWS = "prompt.before", "prompt.after", "prompt.rows"


def with_prompts_in_floats(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a decoder of ours, whose cache is in INT8 with a scale a channel, that reads prompts in floats."""
    shapes = {item.name: tuple(item.dims) for item in model.graph.initializer}
    attentions = [node for node in model.graph.node if node.op_type == ATTENTION]
    if not attentions:
        return model
    _, kv_heads, _, head_size = shapes[attentions[0].input[KEY_SCALES]]
    places = _places(kv_heads)
    nodes = [_either(node, head_size) if node.op_type == ATTENTION else node for node in model.graph.node]
    return rebuilt(model, [*places.nodes, *nodes], [*model.graph.initializer, *places.constants])


def _places(kv_heads: int) -> _Writer:
    """What all layers share: whether this is a prompt, and where its tokens go."""
    write = _Writer("prompt.")
    one = write.constant("one", np.array([1], np.int64))
    count, length = write.several("Split", [write("Shape", ["input_ids"], "shape")], ["N", "S"], num_outputs=2)
    write("And", [write("Equal", [count, one], "alone"), write("Greater", [length, one], "long")], "is")
    total = write("Cast", ["total_sequence_length"], "total", to=TensorProto.INT64)
    write("Reshape", [total, one], "after")
    write("Sub", [AFTER, length], "before")
    step = write.constant("step", np.array(1, np.int64))
    positions = write("Range", [write("Squeeze", [BEFORE], "first"), total, step], "positions")
    third = write.constant("third", np.array([0, 0, 1], np.int64))
    at = write("Mul", [write("Unsqueeze", [positions, one], "column"), third], "at")
    heads = np.arange(kv_heads)[None, :, None, None] * np.array([0, 1, 0])
    write("Add", [write.constant("heads", heads), at], "rows")
    return write


def _either(node: Any, head_size: int) -> Any:
    """``node`` for a step, and what takes its place for a prompt."""
    step, write = onnx.NodeProto(), _Writer(f"{node.output[0]}.step.")
    step.CopyFrom(node)
    step.output[:] = [f"{name}.step" for name in node.output]
    write.nodes.append(step)
    branches = {"then_branch": _prompt(node, head_size), "else_branch": write.branch(list(step.output))}
    return helper.make_node("If", [IS_PROMPT], list(node.output), name=f"{node.name}.either", **branches)


def _prompt(node: Any, head_size: int) -> onnx.GraphProto:
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    heads, kv_heads = attributes["num_heads"], attributes["kv_num_heads"]
    write = _Writer(f"{node.output[0]}.prompt.")
    query, key, value = node.input[:3]
    if not key:
        widths = write.constant("widths", head_size * np.array([heads, kv_heads, kv_heads]))
        query, key, value = write.several("Split", [query, widths], ["query", "key", "value"], axis=-1)
    if attributes.get("do_rotary"):
        turn = {"domain": CONTRIB, "interleaved": attributes.get("rotary_interleaved", 0)}
        query = write("RotaryEmbedding", [query, BEFORE, *node.input[7:9]], "query.turned", **turn)
        key = write("RotaryEmbedding", [key, BEFORE, *node.input[7:9]], "key.turned", **turn)
    apart = write.constant("apart", np.array([0, 0, kv_heads, head_size]))
    parts = zip(("key", "value"), (key, value), node.input[3:5], node.input[12:14], strict=True)
    caches = [_cached(write, apart, *part) for part in parts]
    # Without new keys and values the attention takes the past for all there is, and copies nothing of it.
    none = write.constant("none", np.zeros((1, 0, kv_heads * head_size), np.float32))
    kept = {name: value for name, value in attributes.items() if name not in DONE_BEFORE}
    inputs = [query, none, none, *(floats for _, floats in caches), *node.input[5:7]]
    attended = write(ATTENTION, inputs, "attended", domain=CONTRIB, **kept)
    return write.branch([attended, *(present for present, _ in caches)])


def _cached(write: _Writer, apart: str, part: str, new: str, past: str, scales: str) -> tuple[str, str]:
    """``past`` with the rows of ``new`` [1, S, kv_heads * head_size] in it, and what of it is filled, in floats."""
    rows = write("Transpose", [write("Reshape", [new, apart], f"{part}.apart")], f"{part}.rows", perm=[0, 2, 1, 3])
    # Divided before, for QuantizeLinear takes twenty times as long with a scale a channel.
    steps = write("Div", [rows, scales], f"{part}.steps")
    plain = [write.constant("scale", np.float32(1)), write.constant("zero", np.int8(0))]
    integers = write("QuantizeLinear", [steps, *plain], f"{part}.int8")
    present = write("ScatterND", [past, ROWS, integers], f"{part}.present")
    bounds = [write.constant("first", np.array([0])), AFTER, write.constant("axis", np.array([2]))]
    filled = write("Cast", [write("Slice", [present, *bounds], f"{part}.filled")], f"{part}.cast", to=TensorProto.FLOAT)
    return present, write("Mul", [filled, scales], f"{part}.floats")


class _Writer:
    """Collects nodes and constants; their names begin with ``prefix``."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._constants: dict[str, Any] = {}
        self.nodes: list[Any] = []

    def __call__(self, op: str, inputs: Sequence[str], output: str, **more: Any) -> str:
        return self.several(op, inputs, [output], **more)[0]

    def several(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **more: Any) -> list[str]:
        names = [f"{self._prefix}{output}" for output in outputs]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"{op} of {names[0]}", **more))
        return names

    def constant(self, name: str, value: Any) -> str:
        name = f"{self._prefix}{name}"
        self._constants.setdefault(name, numpy_helper.from_array(np.asarray(value), name))
        return name

    @property
    def constants(self) -> list[Any]:
        return list(self._constants.values())

    def branch(self, outputs: Sequence[str]) -> onnx.GraphProto:
        """As a branch that gives back what an attention does: floats, and two caches."""
        types = (TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT8)
        given = [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(outputs, types, strict=True)]
        return helper.make_graph(self.nodes, self._prefix, [], given, self.constants)
