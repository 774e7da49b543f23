"""Image encoders that cut an image into patches: ViT for classification, and the image side of CLIP.

Weights beside those of the layers (:mod:`pipeline.factory.encoders.spec`):

    patches        [hidden, channels, side, side]; its bias may be missing
    class_token    [hidden]: stands before the patches; may be missing (SigLIP)
    positions      [1 + patches, hidden], or [patches, hidden] without a class token
    embed_norm     [hidden] and its bias; may be missing
    final_norm     [hidden] and its bias
    classifier     [classes, hidden] and its bias, for ``logits``
    projection     [dimensions, hidden], for CLIP

Sources: Dosovitskiy et al. 2020 (arXiv:2010.11929), Radford et al. 2021 (arXiv:2103.00020).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.factory.encoders.head import write_first, write_logits, write_product, write_unit
from pipeline.factory.encoders.layers import Transformer, Weights
from pipeline.factory.encoders.spec import TransformerSpec
from pipeline.factory.graph import GraphWriter
from pipeline.factory.images.pixel_graph import write_pixels
from pipeline.factory.images.spec import PixelInput

__all__ = ["ImageGraph", "build_image_classifier", "build_image_tower", "write_patches"]


class ImageGraph(Struct, frozen=True, kw_only=True):
    """What every image encoder has.

    Attributes:
        pixels: what is made of the bytes before the patches are cut.
        data: where the weights go, instead of into the graph.
    """

    transformer: TransformerSpec
    pixels: PixelInput
    data: Path | None = None


def build_image_classifier(spec: ImageGraph, weights: Weights) -> onnx.ModelProto:
    """``pixels`` uint8 [N, height, width, channels] to ``logits``. Raises ModelError for another image's positions."""
    graph, row = _read(spec, weights)
    write_logits(graph, row, weights)
    return graph.model("image classifier, written by Millrace")


def build_image_tower(spec: ImageGraph, weights: Weights) -> onnx.ModelProto:
    """``pixels`` to ``embedding`` of unit length. Raises ModelError for another image's positions."""
    graph, row = _read(spec, weights)
    write_unit(graph, write_product(graph, row, "projection", weights), weights["projection"].shape[0])
    return graph.model("image encoder of CLIP, written by Millrace")


def _read(spec: ImageGraph, weights: Weights) -> tuple[GraphWriter, str]:
    """The graph, and the class token's row [N, hidden] behind the last norm."""
    layers = spec.transformer
    graph = GraphWriter(f"image-{layers.layers}x{layers.hidden}", spec.data)
    transformer = Transformer(graph, layers, weights)
    x = write_patches(graph, spec, weights)
    if "embed_norm" in weights:
        x = transformer.norm(x, "embed_norm")
    return graph, transformer.norm(write_first(graph, transformer.layers(x)), "final_norm")


def write_patches(graph: GraphWriter, spec: ImageGraph, weights: Weights) -> str:
    """The rows [N, patches, hidden] before the first layer, the class token's first if there is one.

    Raises:
        ModelError: the positions are those of images of another size.
    """
    side, table = weights["patches"].shape[-1], weights["positions"]
    own = int("class_token" in weights)
    _check_positions(spec.pixels, side, len(table) - own)
    inputs = [write_pixels(graph, spec.pixels), graph.constant("patches", weights["patches"])]
    if "patches.bias" in weights:
        inputs.append(graph.constant("patches.bias", weights["patches.bias"]))
    cut = graph.node("Conv", inputs, attributes={"strides": [side, side], "kernel_shape": [side, side]})
    flat = graph.reshape(cut, [0, spec.transformer.hidden, -1])
    rows = graph.node("Transpose", [flat], attributes={"perm": [0, 2, 1]})
    if own:
        # The class token comes with the first position, into a place that is left empty for it.
        table = np.concatenate([table[:1] + weights["class_token"], table[1:]])
        rows = graph.node("Pad", [rows, graph.constant("class_place", np.array([0, 1, 0, 0, 0, 0], np.int64))])
    return graph.node("Add", [rows, graph.constant("positions", table)])


def _check_positions(pixels: PixelInput, side: int, positions: int) -> None:
    image = pixels.image
    patches = (image.height // side) * (image.width // side)
    if positions != patches:
        raise ModelError(
            f"an image of {image.height} x {image.width} has {patches} patches of {side} x {side}, and the model has "
            f"positions for {positions}. Give it images of the size that it was trained on."
        )
