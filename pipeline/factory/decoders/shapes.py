"""What differs between the two shapes of decoder: norms, positions, biases and the feed-forward part."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from onnx import TensorProto

from pipeline.factory.decoders.projections import Projections
from pipeline.factory.decoders.spec import DecoderSpec, Weights
from pipeline.factory.graph import CONTRIB, GraphWriter

__all__ = ["DecoderShape", "decoder_shape"]


class DecoderShape(Protocol):
    """The parts that a decoder puts in order. Each adds nodes to the graph and returns their output."""

    def embed(self) -> str:
        """The residual stream [N, S, hidden] before the first layer."""

    def norm(self, x: str, weight: str) -> str:
        """The norm named ``weight`` of ``x``."""

    def linear(self, x: str, projection: str) -> str:
        """``x`` times the weight ``projection``, plus its bias if it has one."""

    def qkv(self, x: str, layer: int) -> list[str]:
        """Queries, keys and values of ``x``: the first three inputs of GroupQueryAttention. Packed, two are empty."""

    def rotary(self) -> list[str]:
        """The rotary caches, cosine and sine, each [max_length, head_size / 2]; none with learned positions."""

    def heads(self) -> dict[str, int]:
        """Attributes of GroupQueryAttention."""

    def mlp(self, x: str, name: str) -> str:
        """The feed-forward part of the layer ``name``."""


def decoder_shape(spec: DecoderSpec, graph: GraphWriter, weights: Weights, projections: Projections) -> DecoderShape:
    """The parts of ``spec.shape``, writing to ``graph``."""
    parts = _Llama if spec.shape == "llama" else _Gpt2
    return parts(spec, graph, weights, projections)


def _token_rows(spec: DecoderSpec, graph: GraphWriter, projections: Projections) -> str:
    """The row [hidden] of each token, or of the image where the token stands for one."""
    rows = projections.embed("input_ids")
    if spec.image_token_id is None:
        return rows
    token = graph.constant("image_token_id", np.array(spec.image_token_id, np.int64))
    last = graph.constant("last_axis", np.array([-1], np.int64))
    is_image = graph.node("Unsqueeze", [graph.node("Equal", ["input_ids", token]), last])
    return graph.node("Where", [is_image, "image_embeds", rows])


class _Llama:
    """RMS norm, rotary positions inside the attention, gated SiLU; biases where the spec says."""

    def __init__(self, spec: DecoderSpec, graph: GraphWriter, weights: Weights, projections: Projections) -> None:
        self._spec, self._graph, self._weights, self._projections = spec, graph, weights, projections

    def embed(self) -> str:
        return _token_rows(self._spec, self._graph, self._projections)

    def norm(self, x: str, weight: str) -> str:
        inputs = [x, self._constant(weight)]
        return self._graph.node("SimplifiedLayerNormalization", inputs, attributes={"epsilon": self._spec.epsilon})

    def linear(self, x: str, projection: str) -> str:
        product = self._projections.project(x, projection)
        biased = projection.rpartition(".")[2] in self._spec.biased
        return self._graph.node("Add", [product, self._constant(f"{projection}.bias")]) if biased else product

    def qkv(self, x: str, layer: int) -> list[str]:
        packed = self.linear(x, f"layers.{layer}.qkv")
        return self._normed_heads(packed, layer) if self._spec.qk_norm else [packed, "", ""]

    def rotary(self) -> list[str]:
        frequencies = self._spec.rope.frequencies(self._spec.head_size)
        angles = np.outer(np.arange(self._spec.max_length), frequencies)
        cosine = self._graph.constant("rotary.cos", np.cos(angles).astype(np.float32))
        return [cosine, self._graph.constant("rotary.sin", np.sin(angles).astype(np.float32))]

    def heads(self) -> dict[str, int]:
        spec = self._spec
        interleaved = int(spec.rope_interleaved)
        counts = {"num_heads": spec.heads, "kv_num_heads": spec.kv_heads}
        return {**counts, "do_rotary": 1, "rotary_interleaved": interleaved}

    def mlp(self, x: str, name: str) -> str:
        both = self.linear(x, f"{name}.gate_up")
        halves = [f"{name}.gate.out", f"{name}.up.out"]
        self._graph.node("Split", [both], outputs=halves, attributes={"axis": -1, "num_outputs": 2})
        # QuickGelu is x * sigmoid(alpha * x), which is SiLU when alpha is 1.
        gate = self._graph.node("QuickGelu", halves[:1], domain=CONTRIB, attributes={"alpha": 1.0})
        return self.linear(self._graph.node("Mul", [gate, halves[1]]), f"{name}.down")

    def _constant(self, name: str) -> str:
        return self._graph.constant(name, self._weights[name])

    def _normed_heads(self, packed: str, layer: int) -> list[str]:
        """Queries, keys and values [N, S, heads * head_size] apart; queries and keys normed by head."""
        spec, name = self._spec, f"layers.{layer}"
        widths = np.array([spec.heads, spec.kv_heads, spec.kv_heads], np.int64) * spec.head_size
        parts = [f"{name}.{part}" for part in ("q", "k", "v")]
        split = self._graph.constant("qkv.widths", widths)
        self._graph.node("Split", [packed, split], outputs=parts, attributes={"axis": -1})
        return [self._normed(parts[0], f"{name}.q_norm"), self._normed(parts[1], f"{name}.k_norm"), parts[2]]

    def _normed(self, x: str, weight: str) -> str:
        apart = self._graph.reshape(x, [0, 0, -1, self._spec.head_size])
        return self._graph.reshape(self.norm(apart, weight), [0, 0, -1])


class _Gpt2:
    """Layer norm, learned positions added to the embedding, biases everywhere, tanh GELU."""

    def __init__(self, spec: DecoderSpec, graph: GraphWriter, weights: Weights, projections: Projections) -> None:
        self._spec, self._graph, self._weights, self._projections = spec, graph, weights, projections

    def embed(self) -> str:
        table = self._constant("positions")
        positions = self._graph.node("Gather", [table, self._positions()])
        return self._graph.node("Add", [_token_rows(self._spec, self._graph, self._projections), positions])

    def norm(self, x: str, weight: str) -> str:
        inputs = [x, self._constant(weight), self._constant(f"{weight}.bias")]
        return self._graph.node("LayerNormalization", inputs, attributes={"epsilon": self._spec.epsilon})

    def linear(self, x: str, projection: str) -> str:
        return self._graph.node("Add", [self._projections.project(x, projection), self._constant(f"{projection}.bias")])

    def qkv(self, x: str, layer: int) -> list[str]:
        return [self.linear(x, f"layers.{layer}.qkv"), "", ""]

    def rotary(self) -> list[str]:
        return []

    def heads(self) -> dict[str, int]:
        return {"num_heads": self._spec.heads, "kv_num_heads": self._spec.kv_heads}

    def mlp(self, x: str, name: str) -> str:
        inputs = [self._projections.project(x, f"{name}.up"), self._constant(f"{name}.up.bias")]
        return self.linear(self._graph.node("FastGelu", inputs, domain=CONTRIB), f"{name}.down")

    def _constant(self, name: str) -> str:
        return self._graph.constant(name, self._weights[name])

    def _positions(self) -> str:
        """Positions [N, S] of the tokens of this step: those in the cache before it, counted on.

        As in GroupQueryAttention, a step as long as the longest sequence starts every sequence anew, so that prompts
        padded on the right may be read together.
        """
        graph = self._graph
        zero, one = (graph.constant(f"int.{value}", np.array(value, np.int64)) for value in (0, 1))
        axis = graph.constant("axis.1", np.array([1], np.int64))
        length = graph.node("Gather", [graph.node("Shape", ["input_ids"]), one])
        filled = graph.node("Add", [graph.node("Cast", ["seqlens_k"], attributes={"to": TensorProto.INT64}), one])
        total = graph.node("Cast", ["total_sequence_length"], attributes={"to": TensorProto.INT64})
        first = graph.node("Equal", [total, length])
        before = graph.node("Where", [first, zero, graph.node("Sub", [filled, length])])
        before = graph.node("Unsqueeze", [before, axis])
        return graph.node("Add", [before, graph.node("Range", [zero, length, one])])
