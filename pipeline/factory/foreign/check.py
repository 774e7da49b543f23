"""Reads ONNX files that others made, and refuses those that are damaged, reach outside their folder or cannot run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import checker, external_data_helper, numpy_helper, version_converter

from pipeline.errors import ModelError
from pipeline.factory.sources.finite import check_finite

__all__ = ["all_nodes", "read_graph"]

MAX_BYTES = 2_000_000_000
"""Of one protocol buffer; larger graphs keep weights beside them, which this family does not write."""
KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.ms.internal.nhwc"})
QUANTIZED = frozenset(
    {
        *("ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulInteger"),
        *("MatMulNBits", "QAttention", "QGemm", "QLinearConv", "QLinearMatMul", "QuantizeLinear"),
    }
)
MULTIPLIED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
# What quantization needs at least (scales per channel).
MIN_OPSET = 13


def read_graph(path: Path) -> onnx.ModelProto:
    """The model in ``path``, with the weights that it keeps in files beside it.

    Raises:
        ModelError: it is no ONNX file, is cut off, breaks the standard, names files outside its folder, uses operators
            that ONNX Runtime does not have, is quantized already, is too large, or has weights that are no numbers.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # the parser's own errors have no public base class
        raise ModelError(f"{path}: not an ONNX file, or cut off: {error}. Export or copy it again.") from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"{path}: there is no graph in it. Export or copy it again.")
    _check_external(model, path)
    _check_operators(model, path)
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
        checker.check_model(model)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path}: damaged, or against the ONNX standard: {reason[:400]}. Export it anew.") from error
    if model.ByteSize() > MAX_BYTES:
        raise ModelError(
            f"{path}: more than 2 GB with its weights: one ONNX file cannot hold that. Build a smaller one."
        )
    _check_weights(model, path)
    return _upgraded(model, path)


def all_nodes(graph: onnx.GraphProto) -> Iterator[Any]:
    """Every node, those of inner graphs (If, Loop, Scan) too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from all_nodes(attribute.g)


def _check_external(model: onnx.ModelProto, path: Path) -> None:
    folder = path.parent.resolve()
    for tensor in external_data_helper._get_all_tensors(model):
        if not external_data_helper.uses_external_data(tensor):
            continue
        place = external_data_helper.ExternalDataInfo(tensor).location
        file = folder / place
        if Path(place).is_absolute() or not file.resolve().is_relative_to(folder):
            raise ModelError(f"{path}: its tensor {tensor.name!r} is in {place!r}, outside the folder. It is not read.")
        if not file.is_file():
            raise ModelError(f"{path}: its weights are in {place!r}, which is not beside it. Copy that file too.")


def _check_operators(model: onnx.ModelProto, path: Path) -> None:
    own = {function.domain for function in model.functions}
    nodes = list(all_nodes(model.graph))
    if foreign := sorted({node.domain for node in nodes} - KNOWN_DOMAINS - own):
        operators = sorted({node.op_type for node in nodes if node.domain in foreign})
        raise ModelError(
            f"{path}: its operators {', '.join(operators[:3])} are of {', '.join(foreign)}, which ONNX Runtime does "
            "not have. Export the model with standard operators alone."
        )
    if any(tensor.data_type in HALVES for tensor in model.graph.initializer):
        raise ModelError(f"{path}: its weights are halves (float16). Export it in FP32, which the others are made of.")
    if quantized := sorted({node.op_type for node in nodes} & QUANTIZED):
        raise ModelError(
            f"{path}: it is quantized already ({', '.join(quantized[:3])}). Build from the FP32 graph, and let "
            "`millrace models optimize` quantize and measure."
        )


def _check_weights(model: onnx.ModelProto, path: Path) -> None:
    """An infinity that nothing is multiplied by may be a bound or a mask; NaN is never meant."""
    weights = {name for node in all_nodes(model.graph) if node.op_type in MULTIPLIED for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.data_type not in FLOATS:
            continue
        numbers = numpy_helper.to_array(tensor)
        if tensor.name in weights or np.isnan(numbers).any():
            check_finite(numbers, tensor.name, f"{path}: ")


def _upgraded(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    versions = {item.domain: item.version for item in model.opset_import}
    opset = versions.get("", versions.get("ai.onnx", 0))
    if opset >= MIN_OPSET:
        return model
    try:
        return version_converter.convert_version(model, MIN_OPSET)
    except Exception as error:
        raise ModelError(
            f"{path}: it is written for opset {opset}, and cannot be brought to {MIN_OPSET}: {error}. Export it again "
            "with a newer one."
        ) from error
