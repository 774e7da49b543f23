"""Takes outlying channels out of what a transformer's products read, so that one INT8 scale a tensor suffices.

A few channels of a trained encoder are many times larger than all others, on every text: in BERT's kin one after each
norm and one behind most activations. With them in the range, 8 bits are left with few steps for the rest. Here such a
channel is divided by what it exceeds the others by, in a Mul before the product, and its row of the weight is
multiplied by the same: the product stays what it was. Source: Xiao et al. 2022, SmoothQuant (arXiv:2211.10438), with
the difficulty moved for outliers alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from pipeline.factory.calibration_ranges import with_probes
from pipeline.factory.quantize import run_graph

__all__ = ["smoothed"]

Feeds = Mapping[str, npt.NDArray[Any]]
Floats = npt.NDArray[np.float32]
# Channels up to this one, in percent by their largest values, stay as they are.
USUAL = 98.0
# A range that shrinks by less is not worth a Mul.
LEAST_GAIN = 1.5


def smoothed(model: onnx.ModelProto, batches: Sequence[Feeds]) -> onnx.ModelProto:
    """A graph that computes the same, whose products with constant weights [in, out] read fewer outliers.

    Args:
        model: the FP32 graph.
        batches: inputs that show which channels are outliers.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {item.name: item for item in copy.graph.initializer}
    products = list(_products(copy, weights))
    divided: dict[str, str] = {}
    for tensor, largest in _channel_maxima(model, {node.input[0] for node in products}, batches).items():
        excess = np.maximum(largest / max(float(np.percentile(largest, USUAL)), 1e-12), 1).astype(np.float32)
        if excess.max() < LEAST_GAIN:
            continue
        divided[tensor] = _divide(copy, tensor, excess)
        for node in products:
            if node.input[0] == tensor:
                _multiply(weights[node.input[1]], excess)
                node.input[0] = divided[tensor]
    _put_behind_makers(copy, divided)
    return copy


def _products(model: onnx.ModelProto, weights: Mapping[str, onnx.TensorProto]) -> Iterator[Any]:
    """The MatMul nodes of what some node makes and a weight that nobody else reads."""
    uses = Counter(name for node in model.graph.node for name in node.input)
    made = {name for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        multiplies = node.op_type == "MatMul" and node.input[0] in made and node.input[1] in weights
        if multiplies and uses[node.input[1]] == 1 and len(weights[node.input[1]].dims) == 2:
            yield node


def _channel_maxima(model: onnx.ModelProto, tensors: set[str], batches: Sequence[Feeds]) -> dict[str, Floats]:
    """The largest magnitude of each channel of each tensor [.., channels]."""
    names = sorted(tensors)
    largest: dict[str, Floats] = {}
    for values in run_graph(with_probes(model, tensors=names), batches):
        for name in names:
            found = np.abs(values[name]).reshape(-1, values[name].shape[-1]).max(axis=0)
            largest[name] = np.maximum(largest.get(name, found), found)
    return largest


def _divide(model: onnx.ModelProto, tensor: str, excess: Floats) -> str:
    """A Mul, still without its place in the order. Returns its output."""
    factors, output = f"{tensor}.smoothing", f"{tensor}.smoothed"
    model.graph.initializer.append(numpy_helper.from_array(1 / excess, factors))
    model.graph.node.append(helper.make_node("Mul", [tensor, factors], [output], name=f"Mul of {output}"))
    return output


def _multiply(weight: onnx.TensorProto, excess: Floats) -> None:
    scaled = numpy_helper.to_array(weight) * excess[:, None]
    weight.CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), weight.name))


def _put_behind_makers(model: onnx.ModelProto, divided: Mapping[str, str]) -> None:
    """Each Mul right behind the node whose output it divides: nodes of a graph are in the order they run."""
    nodes = list(model.graph.node)
    added = {node.input[0]: node for node in nodes if node.output[0] in divided.values()}
    del model.graph.node[:]
    for node in nodes:
        if node.output[0] not in divided.values():
            model.graph.node.append(node)
            model.graph.node.extend(added[name] for name in node.output if name in added)
