"""Decoder graphs with a KV cache, written from numpy weights with ``onnx`` alone.

Two shapes, one contract (:mod:`pipeline.models.card`): ``llama`` (RMS norm, rotary positions, gated SiLU, grouped
heads) and ``gpt2`` (layer norm, learned positions, biases, tanh GELU). Attention is ONNX Runtime's GroupQueryAttention,
whose past and present may be one buffer, so a step writes one row a slot and copies nothing. The names of the weights
are in :mod:`pipeline.factory.decoders.spec`.

A decoder that reads images (``image_token_id``) has one input more, ``image_embeds`` float32 [N, S, hidden].
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from pipeline.errors import ModelError
from pipeline.factory.decoders.projections import Projections
from pipeline.factory.decoders.shapes import DecoderShape, decoder_shape
from pipeline.factory.decoders.spec import DecoderSpec, Weights, checked_weights
from pipeline.factory.graph import CONTRIB, GraphWriter, Shape

__all__ = ["DecoderSpec", "build_decoder"]

# ONNX Runtime's GroupQueryAttention turns heads of multiples of this (1.31).
TURNED = 16


def build_decoder(spec: DecoderSpec, weights: Weights, data: Path | None = None) -> onnx.ModelProto:
    """Write the FP32 graph of a decoder.

    Args:
        spec: its numbers.
        weights: float32, by the names in :mod:`pipeline.factory.decoders.spec`.
        data: a file to put the weights into, beside the graph, which cannot hold more than 2 GB.

    Raises:
        ModelError: a weight is missing, unknown or of the wrong shape, or the heads have a size that ONNX Runtime does
            not turn.
    """
    if spec.shape == "llama" and spec.head_size % TURNED:
        raise ModelError(f"decoder: heads of {spec.head_size}; rotary positions want a multiple of {TURNED}.")
    weights = checked_weights(spec, weights)
    graph = GraphWriter(f"{spec.shape}-{spec.layers}x{spec.hidden}", data)
    projections = Projections(graph, weights)
    shape = decoder_shape(spec, graph, weights, projections)
    _declare(spec, graph)
    residual = shape.embed()
    normed = shape.norm(residual, "layers.0.attn_norm")
    for layer in range(spec.layers):
        name = f"layers.{layer}"
        attended = shape.linear(_attention(graph, shape, normed, layer), f"{name}.o")
        residual = graph.node("Add", [attended, residual])
        fed = shape.mlp(shape.norm(residual, f"{name}.mlp_norm"), name)
        residual = graph.node("Add", [fed, residual])
        normed = shape.norm(residual, f"layers.{layer + 1}.attn_norm" if layer + 1 < spec.layers else "final_norm")
    projections.head(_at(graph, normed), "head" if spec.untied else "embed", "logits")
    return graph.model("fp32 decoder with a KV cache, written by Millrace")


def _declare(spec: DecoderSpec, graph: GraphWriter) -> None:
    graph.input("input_ids", "int64", ["N", "S"])
    graph.input("seqlens_k", "int32", ["N"])
    graph.input("total_sequence_length", "int32", [])
    graph.input("logits_at", "int64", ["N"])
    if spec.image_token_id is not None:
        graph.input("image_embeds", "float32", ["N", "S", spec.hidden])
    graph.output("logits", "float32", ["N", spec.vocabulary])
    cache: Shape = ["N", spec.kv_heads, "max_length", spec.head_size]
    for layer in range(spec.layers):
        for part in ("key", "value"):
            graph.input(f"past_{part}_{layer}", "float32", cache)
            graph.output(f"present_{part}_{layer}", "float32", cache)


def _attention(graph: GraphWriter, shape: DecoderShape, normed: str, layer: int) -> str:
    past = [f"past_key_{layer}", f"past_value_{layer}"]
    inputs = [*shape.qkv(normed, layer), *past, "seqlens_k", "total_sequence_length", *shape.rotary()]
    outputs = [f"attended_{layer}", f"present_key_{layer}", f"present_value_{layer}"]
    return graph.node("GroupQueryAttention", inputs, outputs=outputs, domain=CONTRIB, attributes=shape.heads())


def _at(graph: GraphWriter, hidden: str) -> str:
    """Row ``logits_at`` of ``hidden`` [N, S, hidden]: [N, hidden]. The head runs on no other."""
    last = graph.constant("last_axis", np.array([-1], np.int64))
    indices = graph.node("Unsqueeze", ["logits_at", last])
    return graph.node("GatherND", [hidden, indices], attributes={"batch_dims": 1})
