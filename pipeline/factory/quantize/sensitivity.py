"""Finds the layers that bear INT8 badly, so that they can stay in floats.

First by each layer's own error, all in one run: the FP32 graph computes every product a second time on quantized inputs
and weights. The worst are then judged by what counts, the error of the graph's output when that one stays in floats.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from pipeline.factory.progress import Progress
from pipeline.factory.quantize.plan import Layer, find_layers
from pipeline.factory.quantize.qdq import Scheme
from pipeline.factory.quantize.ranges import Probe, with_probes
from pipeline.factory.quantize.static import Calibrated, run_graph

__all__ = ["layer_errors", "output_error", "ranked"]

Feeds = Mapping[str, npt.NDArray[Any]]
Outputs = Sequence[Mapping[str, npt.NDArray[Any]]]
JUDGED = 22
"""How many of the worst layers are tried one by one."""


def output_error(full: Outputs, ours: onnx.ModelProto, batches: Sequence[Feeds]) -> float:
    """How far what ``ours`` gives for ``batches`` is from ``full``, what FP32 gives.

    Of ``logits`` the mean Kullback-Leibler divergence, for what matters is which are the greatest; of any other output
    the mean square of the difference, as a share of the mean square of the output.
    """
    errors = [
        _divergence(values, other[name]) if name == "logits" else _share(values, other[name])
        for one, other in zip(full, run_graph(ours, batches), strict=True)
        for name, values in one.items()
    ]
    return float(np.mean(errors))


def _divergence(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    first, second = (_log_shares(side.astype(np.float64)) for side in (one, other))
    return float((np.exp(first) * (first - second)).sum(axis=-1).mean())


def _log_shares(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _share(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    size = float(np.square(one, dtype=np.float64).sum()) or 1.0
    return float(np.square(one - other, dtype=np.float64).sum()) / size


def layer_errors(
    graph: Calibrated, scheme: Scheme, ranging: str, batches: Sequence[Feeds], excluded: Collection[str] = ()
) -> dict[str, float]:
    """Of each layer, by node name: the error of its own output on quantized inputs, as a share of it."""
    quantized = graph.quantized(scheme, ranging=ranging, excluded=excluded)
    layers = [layer for layer in find_layers(graph.model) if layer.name not in excluded]
    probes, doubled = _with_doubles(graph.model, quantized, layers)
    sums = dict.fromkeys((probe.name for probe in probes), 0.0)
    for values in run_graph(with_probes(doubled, probes), batches):
        for name, value in values.items():
            sums[name] += float(value)
    return {layer.name: sums[f"error of {layer.name}"] / max(sums[f"size of {layer.name}"], 1e-30) for layer in layers}


def ranked(
    graph: Calibrated, scheme: Scheme, ranging: str, batches: Sequence[Feeds], progress: Progress = lambda _: None
) -> list[Layer]:
    """The layers, those first whose staying in floats helps the graph's output most; ``progress`` is told of each."""
    errors = layer_errors(graph, scheme, ranging, batches)
    full = list(run_graph(graph.model, batches))
    layers = find_layers(graph.model)
    worst = sorted(layers, key=lambda layer: -errors[layer.name])
    # The first and the last have few weights and many consequences: their own error does not show it.
    tried = list({layer.name: layer for layer in (layers[0], *worst[:JUDGED], layers[-1])}.values())

    done = 0

    def error(*kept: Layer) -> float:
        nonlocal done
        done += 1
        progress(f"looking for sensitive layers, {done} of {2 * len(tried) - 1}")
        excluded = {layer.name for layer in kept}
        return output_error(full, graph.quantized(scheme, ranging=ranging, excluded=excluded), batches)

    # What the worst one does hides what the others do, so these are judged with that one in floats.
    first = min(tried, key=error)
    rest = sorted((layer for layer in tried if layer is not first), key=lambda layer: error(first, layer))
    return [first, *rest, *(layer for layer in worst if layer not in tried)]


def _with_doubles(
    full: onnx.ModelProto, quantized: onnx.ModelProto, layers: Sequence[Layer]
) -> tuple[list[Probe], onnx.ModelProto]:
    """The FP32 graph and, beside each layer, the same on quantized inputs; probes of the squared difference."""
    nodes = {node.name: node for node in full.graph.node}
    makers = {node.output[0]: node for node in quantized.graph.node if node.op_type == "DequantizeLinear"}
    quantizers = {node.output[0]: node for node in quantized.graph.node if node.op_type == "QuantizeLinear"}
    copy = onnx.ModelProto()
    copy.CopyFrom(full)
    have = {item.name for item in full.graph.initializer}
    copy.graph.initializer.extend(item for item in quantized.graph.initializer if item.name not in have)
    probes, added = list[Probe](), dict[str, Any]()
    for layer in layers:
        node = next(item for item in quantized.graph.node if item.name == layer.name)
        weight = makers[node.input[1]]
        value = makers[node.input[0]]
        # The quantizer reads the FP32 graph's tensor here, not what came of the layers before it.
        rounding = _renamed(quantizers[value.input[0]], layer.input, [layer.input])
        reading = _renamed(value, layer.input, [rounding.output[0]])
        added |= {item.output[0]: item for item in (rounding, reading, weight)}
        double = helper.make_node(layer.op, [], [f"double of {layer.name}"], name=f"double of {layer.name}")
        double.attribute.extend(nodes[layer.name].attribute)
        double.input.extend([reading.output[0], weight.output[0], *nodes[layer.name].input[2:]])
        added[double.name] = double
        added |= _squares(layer, nodes[layer.name].output[0], double.output[0])
        probes += [Probe(f"{what} of {layer.name}", "ReduceMean", f"{what} squared of {layer.name}") for what in WHAT]
    copy.graph.node.extend(added.values())
    return probes, copy


WHAT = ("error", "size")


def _squares(layer: Layer, exact: str, double: str) -> dict[str, Any]:
    error = f"difference of {layer.name}"
    made = [
        helper.make_node("Sub", [exact, double], [error]),
        helper.make_node("Mul", [error, error], [f"error squared of {layer.name}"]),
        helper.make_node("Mul", [exact, exact], [f"size squared of {layer.name}"]),
    ]
    return {node.output[0]: node for node in made}


def _renamed(node: Any, tensor: str, inputs: Sequence[str]) -> Any:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = copy.output[0] = f"{node.op_type} beside {tensor}"
    copy.input[: len(inputs)] = inputs
    return copy
