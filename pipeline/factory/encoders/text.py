"""Text encoders: BERT and its kin for classification and sentence embeddings, and the text side of CLIP.

Weights beside those of the layers (:mod:`pipeline.factory.encoders.spec`):

    words          [vocabulary, hidden]
    positions      [at least first_position + the longest text, hidden]
    types          [types, hidden]: token types; row 0 is everybody's; may be missing
    embed_norm     [hidden] and its bias; missing where the layers have their norms first
    final_norm     [hidden] and its bias; only there
    pooler         [hidden, hidden] and its bias; may be missing
    classifier     [classes, hidden] and its bias, for ``logits``
    projection     [dimensions, hidden], for CLIP
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from msgspec import Struct

from pipeline.factory.encoders.head import (
    write_first,
    write_logits,
    write_mean,
    write_product,
    write_row_at,
    write_unit,
)
from pipeline.factory.encoders.layers import Transformer, Weights
from pipeline.factory.encoders.spec import TransformerSpec
from pipeline.factory.graph import GraphWriter

__all__ = [
    "CLIP_UNKNOWN_END",
    "Pooling",
    "TextGraph",
    "build_text_classifier",
    "build_text_embedder",
    "build_text_tower",
]

Pooling = Literal["mean", "first"]
INT32, INT64 = 6, 7
# What CLIP's first configurations call the end, whatever it is: the end is then the largest id of a text.
CLIP_UNKNOWN_END = 2


class TextGraph(Struct, frozen=True, kw_only=True):
    """What every text encoder has.

    Attributes:
        first_position: the row of ``positions`` that a text begins with.
        data: where the weights go, instead of into the graph.
    """

    transformer: TransformerSpec
    first_position: int = 0
    data: Path | None = None


def build_text_classifier(spec: TextGraph, weights: Weights, pooled: Literal["Tanh", "Relu"]) -> onnx.ModelProto:
    """The first place's row through ``pooler`` and the activation ``pooled``, then ``classifier``: ``logits``."""
    graph, transformer = _start(spec, weights)
    row = write_first(graph, _read(graph, transformer, spec, weights))
    write_logits(graph, graph.node(pooled, [write_product(graph, row, "pooler", weights)]), weights)
    return graph.model("text classifier, written by Millrace")


def build_text_embedder(spec: TextGraph, weights: Weights, pooling: Pooling) -> onnx.ModelProto:
    """The mean of a text's rows, or its first, brought to unit length: ``embedding``."""
    graph, transformer = _start(spec, weights)
    x = _read(graph, transformer, spec, weights)
    row = write_first(graph, x) if pooling == "first" else write_mean(graph, x, "attention_mask")
    write_unit(graph, row, spec.transformer.hidden)
    return graph.model("text encoder, written by Millrace")


def build_text_tower(spec: TextGraph, weights: Weights, end: int) -> onnx.ModelProto:
    """CLIP's: the row of the first token ``end``, normed, projected and brought to unit length: ``embedding``."""
    graph, transformer = _start(spec, weights)
    x = _read(graph, transformer, spec, weights)
    row = transformer.norm(write_row_at(graph, x, _end(graph, end)), "final_norm")
    write_unit(graph, write_product(graph, row, "projection", weights), weights["projection"].shape[0])
    return graph.model("text encoder of CLIP, written by Millrace")


def _start(spec: TextGraph, weights: Weights) -> tuple[GraphWriter, Transformer]:
    layers = spec.transformer
    graph = GraphWriter(f"text-{layers.layers}x{layers.hidden}", spec.data)
    for name in ("input_ids", "attention_mask"):
        graph.input(name, "int64", ["N", "S"])
    return graph, Transformer(graph, layers, weights)


def _read(graph: GraphWriter, transformer: Transformer, spec: TextGraph, weights: Weights) -> str:
    """The last layer's rows [N, S, hidden]."""
    words = graph.node("Gather", [graph.constant("words", weights["words"]), "input_ids"])
    x = graph.node("Add", [words, _positions(graph, spec, weights)])
    if "embed_norm" in weights:
        x = transformer.norm(x, "embed_norm")
    axis = graph.constant("places_axis", np.array([1], np.int64))
    mask = graph.node("Cast", ["attention_mask"], attributes={"to": INT32})
    return transformer.layers(x, graph.node("ReduceSum", [mask, axis], attributes={"keepdims": 0}))


def _positions(graph: GraphWriter, spec: TextGraph, weights: Weights) -> str:
    """The rows [S, hidden] that are added to those of the words: of the positions, and of token type 0."""
    table = weights["positions"][spec.first_position :]
    if "types" in weights:
        table = table + weights["types"][0]
    start = graph.constant("position.start", np.array([0], np.int64))
    length = graph.node("Shape", ["input_ids"], attributes={"start": 1})
    return graph.node("Slice", [graph.constant("positions", table), start, length])


def _end(graph: GraphWriter, end: int) -> str:
    """The place int64 [N] of the token ``end`` in each text."""
    if end == CLIP_UNKNOWN_END:
        found = graph.node("Mul", ["input_ids", "attention_mask"])
    else:
        found = graph.node("Equal", ["input_ids", graph.constant("end", np.array(end, np.int64))])
    found = graph.node("Cast", [found], attributes={"to": INT32})
    return graph.node("ArgMax", [found], attributes={"axis": 1, "keepdims": 0})
