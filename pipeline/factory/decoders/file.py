"""Writes a decoder's FP32 graph to its folder, with the weights beside it where one file cannot hold them."""

from __future__ import annotations

import math
from pathlib import Path

import onnx

from pipeline.errors import ModelError
from pipeline.factory.decoders.graph import build_decoder
from pipeline.factory.decoders.spec import DecoderSpec, Weights, weight_shapes
from pipeline.models.card import GraphFile, Variant
from pipeline.models.cardfile import sha256_of

__all__ = ["METHOD", "write_fp32"]

METHOD = "as trained, in float32"
# Protocol buffers end at 2 GB, and the graph needs some of it.
LARGEST_FILE = 1_900_000_000


def write_fp32(spec: DecoderSpec, weights: Weights, folder: Path, largest: int = LARGEST_FILE) -> Variant:
    """Write ``fp32.onnx``, and ``fp32.onnx.data`` beside it where the weights have more than ``largest`` bytes.

    Raises:
        ModelError: the weights do not fit the spec, or there is no room for the files.
    """
    graph, data = folder / "fp32.onnx", folder / "fp32.onnx.data"
    size = 4 * sum(math.prod(shape) for shape in weight_shapes(spec).values())
    outside = size > largest
    try:
        onnx.save(build_decoder(spec, weights, data if outside else None), graph)
    except OSError as error:
        raise ModelError(f"{graph}: {size / 1e9:.1f} GB cannot be written: {error.strerror or error}.") from error
    parts = {"data": GraphFile(file=data.name, sha256=sha256_of(data))} if outside else {}
    return Variant(file=graph.name, sha256=sha256_of(graph), parts=parts, method=METHOD)
