"""Writes QuantizeLinear and DequantizeLinear into a graph (the QDQ form): what runtimes fuse into integer kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from msgspec import Struct
from onnx import helper, numpy_helper

from pipeline.factory.quantize.plan import Layer, Plan
from pipeline.factory.quantize.ranges import Range
from pipeline.factory.quantize.rebuild import rebuilt

__all__ = ["LIMIT", "S8S8", "U8S8", "Scheme", "WeightMaker", "quantized_weight", "weight_scales", "write_qdq"]

Array = npt.NDArray[Any]
# Makes a layer's weight: int8 and the scale of each channel, which may not be below what is given.
WeightMaker = Callable[[Layer, Array | float], tuple[Array, Array]]


class Scheme(Struct, frozen=True, kw_only=True):
    """How numbers become integers.

    Attributes:
        symmetric: activations are int8 around 0 and biases stay floats, as TensorRT wants; else uint8 with a zero point
            and int32 biases, as ONNX Runtime's CPU provider wants.
        paired: the weights that a processor without VNNI multiplies in pairs fit into its 16-bit sums.
    """

    symmetric: bool
    paired: bool


# Processors without VNNI add two uint8 x int8 products in 16 bits, which saturates with full weights: the same file
# would answer differently there (ONNX Runtime's quantization guide, "reduce_range", which halves every weight for it).
# It is enough that no two neighbours along the reduced axis add up to more than 128: 255 * 128 < 2^15.
U8S8 = Scheme(symmetric=False, paired=True)
S8S8 = Scheme(symmetric=True, paired=False)
LIMIT = 127


def quantized_weight(weight: Array, axis: int, scales: Array) -> Array:
    """int8 of the shape of ``weight``, whose channels lie along ``axis``."""
    shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
    return np.asarray(np.rint(weight / scales.reshape(shape)).astype(np.int8))


def weight_scales(weight: Array, axis: int, *, paired: bool, least: Array | float = 0) -> Array:
    """The scale of each channel along ``axis``, not below ``least``."""
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    limits = [np.abs(rows).max(axis=1) / LIMIT]
    if paired:
        # Kernels of more than one pixel are multiplied pixel by pixel, all channels of each: the reduced axis is last.
        last = np.moveaxis(np.moveaxis(weight, axis, 0), 1, -1).reshape(rows.shape)
        limits += [_largest_pair(order) / LIMIT for order in (rows, last)]
    scales: npt.NDArray[np.float32] = np.maximum(np.max(limits, axis=0), least).astype(np.float32)
    scales[scales == 0] = 1
    return scales


def _largest_pair(rows: Array) -> Array:
    """The greatest sum of one sign of two neighbours, of each row [channels, reduced]."""
    padded = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(len(rows), -1, 2)
    sums = [np.maximum(sign * padded, 0).sum(axis=2).max(axis=1) for sign in (1, -1)]
    return np.asarray(np.maximum(*sums))


def write_qdq(
    model: onnx.ModelProto, plan: Plan, ranges: Mapping[str, Range], scheme: Scheme, weights: WeightMaker
) -> onnx.ModelProto:
    """The quantized form of ``model``.

    Args:
        model: its nodes have names, which they keep.
        plan: what is quantized.
        ranges: of each tensor that the plan takes a range from.
        scheme: how.
        weights: makes the weight of each layer.
    """
    return _Writer(model, plan, ranges, scheme, weights).write()


class _Writer:
    def __init__(
        self, model: onnx.ModelProto, plan: Plan, ranges: Mapping[str, Range], scheme: Scheme, weights: WeightMaker
    ) -> None:
        self._model, self._plan, self._scheme, self._weights = model, plan, scheme, weights
        self._constants = {item.name: item for item in model.graph.initializer}
        self._layers = {layer.name: layer for layer in plan.layers}
        self._scales = {name: self._scale(ranges[source]) for name, source in plan.tensors.items()}
        self._outputs = {item.name for item in model.graph.output}
        self._sources: dict[str, str] = {}
        self._nodes: list[Any] = []
        self._added: dict[str, Any] = {}

    def write(self) -> onnx.ModelProto:
        for node in self._model.graph.node:
            if node.name in self._plan.absorbed and self._saturates(node.output[0]):
                self._sources[node.output[0]] = self._sources.get(node.input[0], node.input[0])
            else:
                self._copy(node)
            self._finish_outputs(node)
        return self._assembled()

    def _copy(self, node: Any) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        layer = self._layers.get(node.name)
        for index, name in enumerate(node.input):
            if name in self._plan.whole or (layer is not None and index == 0):
                copy.input[index] = self._dequantized(name)
        if layer is not None:
            copy.input[1] = self._weight(layer)
            if layer.bias is not None and not self._scheme.symmetric:
                copy.input[2] = self._bias(layer, layer.bias)
        self._nodes.append(copy)

    def _finish_outputs(self, node: Any) -> None:
        """A quantized tensor that the graph gives out is given out quantized, or the node before it has two readers."""
        for name in node.output:
            if name in self._outputs and name in self._plan.whole:
                source = self._sources.get(name, name)
                if source == name:
                    source = f"{name}_before_rounding"
                    self._nodes[-1].output[list(node.output).index(name)] = source
                self._sources[name] = source
                self._dequantized(name, output=name)

    def _dequantized(self, name: str, output: str | None = None) -> str:
        output = output or (name if name in self._outputs and name in self._plan.whole else f"{name}_dequantized")
        if f"{name}_scale" not in self._added:
            scale, zero = self._scales[name]
            parameters = [self._add(f"{name}_scale", np.array(scale)), self._add(f"{name}_zero_point", np.array(zero))]
            source = self._sources.get(name, name)
            self._node("QuantizeLinear", [source, *parameters], f"{name}_quantized")
            self._node("DequantizeLinear", [f"{name}_quantized", *parameters], output)
        return output

    def _weight(self, layer: Layer) -> str:
        """The weight is the layer's own even where two share one: its scale depends on the bias."""
        name = f"{layer.name}_weight"
        values, scales = self._weights(layer, self._least_scale(layer))
        self._parameter(name, values, scales, layer.axis)
        return f"{name}_dequantized"

    def _least_scale(self, layer: Layer) -> Array | float:
        """Below this, the bias would not fit into 32 bits."""
        if layer.bias is None or self._scheme.symmetric:
            return 0.0
        bias = np.abs(numpy_helper.to_array(self._constants[layer.bias]))
        return np.asarray(bias / (self._scales[layer.input][0] * np.float32(2**30)))

    def _bias(self, layer: Layer, bias: str) -> str:
        scales = numpy_helper.to_array(self._added[f"{layer.name}_weight_scale"]) * self._scales[layer.input][0]
        values = np.rint(numpy_helper.to_array(self._constants[bias]).astype(np.float64) / scales)
        self._parameter(f"{layer.name}_bias", values.astype(np.int32), scales.astype(np.float32), 0)
        return f"{layer.name}_bias_dequantized"

    def _parameter(self, name: str, values: Array, scales: Array, axis: int) -> None:
        zeros = np.zeros(len(scales), values.dtype)
        parts = {"quantized": values, "scale": scales, "zero_point": zeros}
        inputs = [self._add(f"{name}_{part}", array) for part, array in parts.items()]
        self._node("DequantizeLinear", inputs, f"{name}_dequantized", axis=axis)

    def _node(self, op: str, inputs: list[str], output: str, **attributes: int) -> None:
        self._nodes.append(helper.make_node(op, inputs, [output], name=f"{op} of {output}", **attributes))

    def _add(self, name: str, value: Array) -> str:
        self._added[name] = numpy_helper.from_array(np.array(value, order="C"), name)
        return name

    def _scale(self, bounds: Range) -> tuple[np.float32, Any]:
        low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
        if self._scheme.symmetric:
            return np.float32(max(-low, high) / 127 or 1), np.int8(0)
        scale = np.float32((high - low) / 255 or 1)
        return scale, np.uint8(np.rint(-low / scale))

    def _saturates(self, name: str) -> bool:
        """Whether cutting to the integers' range does what the Relu or Clip before ``name`` does."""
        return not self._scheme.symmetric and int(self._scales[name][1]) == 0

    def _assembled(self) -> onnx.ModelProto:
        read = {name for node in self._nodes for name in node.input}
        kept = (item for name, item in self._constants.items() if name in read)
        return rebuilt(self._model, self._nodes, [*kept, *self._added.values()])
