"""Moves the outliers of activations into weights, channel by channel, so that both round well.

A few channels of a transformer's activations are tens of times larger than the others, and one scale for all leaves
these few levels. Dividing each channel by a factor, and multiplying the weight's row by it, changes nothing in floats.
Source: Xiao et al., SmoothQuant (2022, arXiv:2211.10438), equation 4.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from pipeline.factory.quantize.plan import Layer, find_layers
from pipeline.factory.quantize.rebuild import rebuilt

__all__ = ["NORMS", "largest_inputs", "smooth", "smoothed_inputs"]

# Norms whose first output is scaled by their second-named input, and shifted by the next.
NORMS = {
    "LayerNormalization": (1, 2),
    "SimplifiedLayerNormalization": (1,),
    "SkipLayerNormalization": (2, 3),
    "SkipSimplifiedLayerNormalization": (2,),
}
SMALLEST = 1e-5
Array = npt.NDArray[Any]


def smoothed_inputs(model: onnx.ModelProto) -> list[str]:
    """The tensors that matrix products with constant weights [in, out] read: [.., channels] each."""
    return list(dict.fromkeys(layer.input for layer in find_layers(model) if _is_smoothed(layer)))


def largest_inputs(model: onnx.ModelProto, runs: Iterable[Mapping[str, Array]]) -> dict[str, Array]:
    """The greatest absolute value of each channel of these tensors, over runs that have them as outputs."""
    greatest: dict[str, Array] = {}
    names = smoothed_inputs(model)
    for values in runs:
        for name in names:
            found = np.abs(values[name]).reshape(-1, values[name].shape[-1]).max(axis=0)
            greatest[name] = np.maximum(greatest[name], found) if name in greatest else found
    return greatest


def smooth(model: onnx.ModelProto, greatest: Mapping[str, Array], strength: float) -> onnx.ModelProto:
    """A copy that computes the same with smoother activations.

    Args:
        model: its nodes have names.
        greatest: from :func:`largest_inputs`.
        strength: how much of the outliers goes to the weights: 0 none, 1 all (the paper's alpha).
    """
    readers: dict[str, list[Layer]] = defaultdict(list)
    for layer in find_layers(model):
        if _is_smoothed(layer) and layer.input in greatest:
            readers[layer.input].append(layer)
    return _Writer(model, readers).write({name: greatest[name] for name in readers}, strength)


def _is_smoothed(layer: Layer) -> bool:
    return layer.op != "Conv" and layer.axis == 1


class _Writer:
    def __init__(self, model: onnx.ModelProto, readers: Mapping[str, list[Layer]]) -> None:
        self._model = rebuilt(model, model.graph.node, model.graph.initializer)
        self._readers = readers
        self._tensors = {item.name: item for item in self._model.graph.initializer}
        self._uses: dict[str, int] = defaultdict(int)
        for node in self._model.graph.node:
            for name in node.input:
                self._uses[name] += 1
        for item in self._model.graph.output:
            self._uses[item.name] += 1

    def write(self, greatest: Mapping[str, Array], strength: float) -> onnx.ModelProto:
        makers = {name: node for node in self._model.graph.node for name in node.output[:1]}
        inserted: dict[str, Any] = {}
        for name, layers in self._readers.items():
            if any(self._uses[layer.weight] > 1 for layer in layers):
                continue  # another product reads that weight too
            factors = self._factors(layers, greatest[name], strength)
            for layer in layers:
                self._multiply(layer.weight, factors[:, None])
            if not self._fold(makers.get(name), name, factors):
                inserted[name] = self._divide(name, factors)
        return rebuilt(self._model, self._nodes(inserted), self._tensors.values())

    def _factors(self, layers: list[Layer], greatest: Array, strength: float) -> Array:
        weights = np.max([np.abs(self._array(layer.weight)).max(axis=1) for layer in layers], axis=0)
        logs = strength * np.log(np.maximum(greatest, SMALLEST)) - (1 - strength) * np.log(
            np.maximum(weights, SMALLEST)
        )
        return np.asarray(np.exp(logs - logs.mean()), np.float32)

    def _fold(self, maker: Any, name: str, factors: Array) -> bool:
        """Divide in the norm that makes ``name``, if the products alone read it and its constants."""
        places = NORMS.get(maker.op_type, ()) if maker is not None else ()
        constants = [maker.input[place] for place in places if place < len(maker.input) and maker.input[place]]
        alone = self._uses[name] == len(self._readers[name])
        if not places or not alone or any(self._uses[item] > 1 or item not in self._tensors for item in constants):
            return False
        for constant in constants:
            self._multiply(constant, 1 / factors)
        return True

    def _divide(self, name: str, factors: Array) -> Any:
        inverse = f"{name}_inverse_factors"
        self._tensors[inverse] = numpy_helper.from_array((1 / factors).astype(np.float32), inverse)
        return helper.make_node("Mul", [name, inverse], [f"{name}_smooth"], name=f"{name}_smooth")

    def _nodes(self, inserted: dict[str, Any]) -> list[Any]:
        """The nodes, each division before the first product that reads it."""
        layers = {layer.name: layer for name in inserted for layer in self._readers[name]}
        nodes: list[Any] = []
        for node in self._model.graph.node:
            layer = layers.get(node.name)
            if layer is not None:
                if layer.input in inserted:
                    nodes.append(inserted.pop(layer.input))
                node.input[0] = f"{layer.input}_smooth"
            nodes.append(node)
        return nodes

    def _multiply(self, name: str, factors: Array) -> None:
        values = (self._array(name) * factors).astype(np.float32)
        self._tensors[name].CopyFrom(numpy_helper.from_array(values, name))

    def _array(self, name: str) -> Array:
        return np.asarray(numpy_helper.to_array(self._tensors[name]))
