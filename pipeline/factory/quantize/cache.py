"""INT8 keys and values: a decoder's KV cache in a quarter of the memory.

A step of decoding reads it sooner, for it is memory that such a step waits for; a prompt is read from it in floats
(:mod:`pipeline.factory.quantize.prompts`).

Each channel of keys and of values has a scale of its own, constant in the graph, in ONNX Runtime's GroupQueryAttention:
what is cached of a token depends on that token alone, so chunks of a prompt and company in a batch change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from pipeline.factory.quantize.prompts import with_prompts_in_floats
from pipeline.factory.quantize.rebuild import rebuilt
from pipeline.models.card import CacheType

__all__ = ["METHOD", "cache_maxima", "cache_type", "quantize_cache"]

METHOD = "KV cache INT8 per channel, prompts read from it in floats"
ATTENTION = "GroupQueryAttention"
TYPES: dict[int, CacheType] = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.INT8: "int8"}
LARGEST = 127
# The places of past keys and values, and of their scales, among the inputs.
PASTS, SCALES = (3, 4), (12, 13)
Array = npt.NDArray[Any]


def cache_type(model: onnx.ModelProto) -> CacheType | None:
    """What the caches of a graph hold; ``None`` where it has none."""
    pasts = [item for item in model.graph.input if item.name.startswith("past_")]
    return TYPES.get(pasts[0].type.tensor_type.elem_type) if pasts else None


def cache_maxima(model: onnx.ModelProto, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """The largest absolute value of each channel, [kv_heads, head_size], of each cache that a run gave back.

    Two channels of a key that rotary positions turn into each other both get the length of the two: further on in a
    text than any sample is long, either may be that large.

    Args:
        model: the graph that ran.
        outputs: of the run, by name: [N, kv_heads, length, head_size], full to the end.
    """
    maxima = {}
    for node in _attentions(model):
        keys, values = node.output[1:3]
        maxima[keys] = _turned(outputs[keys], node).max(axis=(0, 2))
        maxima[values] = np.abs(outputs[values]).max(axis=(0, 2))
    return maxima


def quantize_cache(model: onnx.ModelProto, maxima: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy whose caches are int8, with the scales that :func:`cache_maxima` of samples asks for."""
    constants = list(model.graph.initializer)
    for name, largest in maxima.items():
        scales = np.where(largest > 0, largest, 1) / np.float32(LARGEST)
        constants.append(numpy_helper.from_array(scales[None, :, None].astype(np.float32), f"{name}.scales"))
    copy = rebuilt(model, model.graph.node, constants)
    for node in _attentions(copy):
        _read_scales(node)
    caches = {name for node in _attentions(copy) for name in (*(node.input[at] for at in PASTS), *node.output[1:3])}
    for item in (*copy.graph.input, *copy.graph.output):
        if item.name in caches:
            item.type.tensor_type.elem_type = TensorProto.INT8
    return with_prompts_in_floats(copy)


def _attentions(model: onnx.ModelProto) -> list[Any]:
    return [node for node in model.graph.node if node.op_type == ATTENTION]


def _read_scales(node: Any) -> None:
    missing = max(SCALES) + 1 - len(node.input)
    node.input.extend([""] * missing)
    for place, output in zip(SCALES, node.output[1:3], strict=True):
        node.input[place] = f"{output}.scales"
    attributes = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
    node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in attributes.items())


def _turned(keys: Array, node: Any) -> Array:
    """How large each channel of ``keys`` [..., head_size] can be, at whatever position."""
    attributes = {item.name: item.i for item in node.attribute}
    if not attributes.get("do_rotary"):
        return np.abs(keys)
    half, interleaved = keys.shape[-1] // 2, attributes.get("rotary_interleaved")
    pairs = keys.reshape(*keys.shape[:-1], *((half, 2) if interleaved else (2, half)))
    lengths = np.linalg.norm(pairs, axis=-1 if interleaved else -2, keepdims=True)
    return np.broadcast_to(lengths, pairs.shape).reshape(keys.shape)
