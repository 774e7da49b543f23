"""The vision graph of a model that reads images: an image encoder, and the projector to the width of its decoder.

Weights beside those of :mod:`pipeline.factory.encoders.image`, all with a bias or without:

    project_in     [hidden of the decoder, hidden of the encoder]
    project_out    [hidden of the decoder, hidden of the decoder]

Source: Liu et al. 2023, arXiv:2310.03744.
"""

from __future__ import annotations

import numpy as np
import onnx
from msgspec import Struct

from pipeline.factory.encoders.image import ImageGraph, write_patches
from pipeline.factory.encoders.layers import Transformer, Weights, write_activation
from pipeline.factory.encoders.spec import Activation
from pipeline.factory.graph import GraphWriter

__all__ = ["VisionGraph", "build_vision"]


class VisionGraph(Struct, frozen=True, kw_only=True):
    """What a vision graph is made of.

    Attributes:
        encoder: the image encoder, with as many layers as are used: there is no norm behind them.
        skipped: rows at the front that are left out: 1 for the class token.
        rows: that remain, one for each token of an image.
        activation: inside the projector.
    """

    encoder: ImageGraph
    skipped: int
    rows: int
    activation: Activation


def build_vision(spec: VisionGraph, weights: Weights) -> onnx.ModelProto:
    """``pixels`` uint8 [N, height, width, channels] to ``image_embeds`` float32 [N, rows, hidden of the decoder].

    Raises:
        ModelError: a weight is of the wrong shape, or the positions are those of images of another size.
    """
    layers = spec.encoder.transformer
    graph = GraphWriter(f"vision-{layers.layers}x{layers.hidden}", spec.encoder.data)
    encoder = Transformer(graph, layers, weights)
    x = write_patches(graph, spec.encoder, weights)
    if "embed_norm" in weights:
        x = encoder.norm(x, "embed_norm")
    rows = graph.reshape(_kept(graph, spec, encoder.layers(x)), [-1, layers.hidden])
    inner = write_activation(graph, spec.activation, encoder.linear(rows, "project_in"))
    width = weights["project_out"].shape[0]
    graph.reshape(encoder.linear(inner, "project_out"), [-1, spec.rows, width], output="image_embeds")
    graph.output("image_embeds", "float32", ["N", spec.rows, width])
    return graph.model("vision graph, written by Millrace")


def _kept(graph: GraphWriter, spec: VisionGraph, x: str) -> str:
    if not spec.skipped:
        return x
    bounds = (np.array([value], np.int64) for value in (spec.skipped, np.iinfo(np.int64).max, 1))
    names = [graph.constant(f"kept.{name}", value) for name, value in zip(("from", "to", "axis"), bounds, strict=True)]
    return graph.node("Slice", [x, *names])
