"""Removes hidden neurons and inner channels: rows of one layer, and the columns of the next that read them.

A layer can lose outputs when all that is between it and the layers that read it works on each channel by itself, such
as an activation, a bias or a depthwise convolution; then these lose the same channels. What ends in a residual sum
cannot: the other side of the sum would have to lose them too.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from msgspec import Struct
from onnx import numpy_helper

from pipeline.errors import ModelError
from pipeline.factory.exports.export import import_framework
from pipeline.factory.quantize.plan import Layer, find_layers
from pipeline.factory.quantize.rebuild import rebuilt

__all__ = ["remove_neurons"]

ELEMENTWISE = frozenset(
    {"Add", "BiasGelu", "Cast", "Clip", "Div", "Erf", "FastGelu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu"}
    | {"Mul", "Pow", "QuickGelu", "Relu", "Sigmoid", "Sqrt", "Sub", "Tanh"}
)
MULTIPLE = 8
"""Layers keep a multiple of this many channels: what a processor's registers hold."""
Array = npt.NDArray[Any]


class _Region(Struct, frozen=True, kw_only=True):
    """A layer that can lose outputs, what stands behind it, and who reads it."""

    layer: Layer
    between: tuple[Any, ...]
    readers: tuple[Layer, ...]


def remove_neurons(model: onnx.ModelProto, amount: float) -> onnx.ModelProto:
    """A copy without the ``amount`` of each inner layer's channels that have the smallest weights (L2).

    Raises:
        ModelError: the graph has no layer that can lose any, or torch is not installed.
    """
    copy = rebuilt(model, model.graph.node, model.graph.initializer)
    graph = _Graph(copy)
    removed = 0
    for region in [found for layer in graph.layers.values() if (found := graph.behind(layer)) is not None]:
        kept = _kept(graph.array(region.layer.weight), region.layer.axis, amount)
        if len(kept) < graph.array(region.layer.weight).shape[region.layer.axis]:
            graph.shrink(region, kept)
            removed += 1
    if not removed:
        raise ModelError("no layer of this graph can lose neurons: each feeds a residual sum or the output.")
    return copy


def _kept(weight: Array, axis: int, amount: float) -> Array:
    """The places of the channels that stay, by torch's structured pruning (prune.ln_structured, n = 2)."""
    torch, torch_prune = import_framework("torch"), import_framework("torch.nn.utils.prune")
    channels = weight.shape[axis]
    left = max(MULTIPLE, round(channels * (1 - amount) / MULTIPLE) * MULTIPLE)
    if left >= channels:
        return np.arange(channels)
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.from_numpy(weight.copy()))
    torch_prune.ln_structured(module, "weight", amount=channels - left, n=2, dim=axis)
    mask = np.moveaxis(module.weight_mask.numpy(), axis, 0).reshape(channels, -1)
    return np.flatnonzero(mask[:, 0])


class _Graph:
    """A graph whose constants are changed in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.layers = {layer.name: layer for layer in find_layers(model)}
        self._tensors = {item.name: item for item in model.graph.initializer}
        self._outputs = {item.name for item in model.graph.output}
        self._nodes = {node.name: node for node in model.graph.node}
        self._readers: dict[str, list[Any]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self._readers[name].append(node)

    def array(self, name: str) -> Array:
        return np.asarray(numpy_helper.to_array(self._tensors[name]))

    def behind(self, layer: Layer) -> _Region | None:
        """What stands behind ``layer``; ``None`` where it cannot lose outputs."""
        if layer.grouped or not self._alone(layer.weight):
            return None
        inside, between, readers = {self._nodes[layer.name].output[0]}, list[Any](), dict[str, Layer]()
        waiting = list(inside)
        while waiting:
            tensor = waiting.pop()
            for node in self._readers[tensor]:
                reader = self.layers.get(node.name)
                if reader is not None and not reader.depthwise:
                    if not self._may_lose_inputs(reader, layer, tensor):
                        return None
                    readers[node.name] = reader
                elif node.op_type in ELEMENTWISE or reader is not None:
                    if node.output[0] not in inside:
                        between.append(node)
                        inside.add(node.output[0])
                        waiting.append(node.output[0])
                else:
                    return None
        if not readers or inside & self._outputs or any(self._other(node, inside) for node in between):
            return None
        return _Region(layer=layer, between=tuple(between), readers=tuple(readers.values()))

    def shrink(self, region: _Region, kept: Array) -> None:
        """Leave the channels ``kept`` in all that a region is made of."""
        layer = region.layer
        channels = self.array(layer.weight).shape[layer.axis]
        self._take(layer.weight, kept, layer.axis)
        if layer.bias is not None:
            self._take(layer.bias, kept, 0)
        for node in region.between:
            for name in node.input:
                if name in self._tensors and channels in self._tensors[name].dims:
                    self._take(name, kept, list(self._tensors[name].dims).index(channels))
            for attribute in node.attribute:
                if attribute.name == "group":
                    attribute.i = len(kept)
        for reader in region.readers:
            self._take(reader.weight, kept, 1 if reader.op == "Conv" else 1 - reader.axis)

    def _may_lose_inputs(self, reader: Layer, layer: Layer, tensor: str) -> bool:
        same = (reader.op == "Conv") == (layer.op == "Conv")
        return same and not reader.grouped and reader.input == tensor and self._alone(reader.weight)

    def _other(self, node: Any, inside: set[str]) -> bool:
        """Whether ``node`` reads what is neither in the region nor a constant of its own."""
        return any(
            name and name not in inside and not (name in self._tensors and self._fits(name)) for name in node.input
        )

    def _fits(self, name: str) -> bool:
        return self._alone(name) or len([size for size in self._tensors[name].dims if size > 1]) == 0

    def _alone(self, name: str) -> bool:
        return len(self._readers[name]) == 1

    def _take(self, name: str, kept: Array, axis: int) -> None:
        values = np.ascontiguousarray(np.take(self.array(name), kept, axis=axis))
        self._tensors[name].CopyFrom(numpy_helper.from_array(values, name))
