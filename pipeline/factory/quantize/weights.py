"""The INT8 weights of a graph's layers: each is made once, whatever else is tried with the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from pipeline.factory.quantize.plan import Layer, find_layers
from pipeline.factory.quantize.qdq import LIMIT, Scheme, quantized_weight, weight_scales
from pipeline.factory.quantize.rounding import round_together

__all__ = ["QuantizedWeights", "input_products", "rounded_layers"]

Array = npt.NDArray[Any]
WIDEST = 4_096
"""Inputs of a layer whose products are kept: they take the square of it."""
ROWS = 1_024
"""Of one calibration input: enough of them for the products, and a picture has tens of thousands."""


def rounded_layers(model: onnx.ModelProto) -> list[Layer]:
    """The layers whose columns are rounded together: convolutions of single pixels.

    Matrix products of transformers win more by :mod:`pipeline.factory.quantize.smooth`, in less time.
    """
    shapes = {item.name: tuple(item.dims) for item in model.graph.initializer}
    return [
        layer
        for layer in find_layers(model)
        if layer.op == "Conv" and not layer.grouped and _is_matrix(shapes[layer.weight])
    ]


def input_products(layers: Iterable[Layer], runs: Iterable[Mapping[str, Array]]) -> dict[str, Array]:
    """The covariance of the channels of each layer's input, by the tensor's name; ``runs`` have these tensors.

    Around the mean, because what rounding does to the mean is corrected in the bias.
    """
    names = list(dict.fromkeys(layer.input for layer in layers))
    products = dict.fromkeys(names, np.zeros(()))
    sums, counts = dict(products), dict.fromkeys(names, 0)
    for values in runs:
        for name in names:
            rows = _rows(values[name])
            products[name] = products[name] + rows.T @ rows
            sums[name] = sums[name] + rows.sum(axis=0)
            counts[name] += len(rows)
    means = {name: total / counts[name] for name, total in sums.items()}
    return {name: product / counts[name] - np.outer(means[name], means[name]) for name, product in products.items()}


class QuantizedWeights:
    """Makes weights, and keeps them.

    Args:
        model: the FP32 graph.
        products: makes the covariances of the inputs, by tensor, when they are needed first.
    """

    def __init__(self, model: onnx.ModelProto, products: Callable[[], Mapping[str, Array]]) -> None:
        self._constants = {item.name: item for item in model.graph.initializer}
        self._together = {layer.name for layer in rounded_layers(model)}
        self._make_products = products
        self._products: Mapping[str, Array] | None = None
        self._made: dict[tuple[str, bool], tuple[Array, Array]] = {}

    def make(self, layer: Layer, scheme: Scheme, least: Array | float) -> tuple[Array, Array]:
        """The int8 weight and its scales, which are not below ``least``."""
        # Depthwise kernels add in 32 bits everywhere.
        paired = scheme.paired and not layer.depthwise
        weight = numpy_helper.to_array(self._constants[layer.weight])
        scales = weight_scales(weight, layer.axis, paired=paired, least=least)
        made = self._made.get((layer.name, paired))
        if made is None or not np.array_equal(made[1], scales):
            made = self._rounded(layer, weight, scales, paired=paired), scales
            self._made[layer.name, paired] = made
        return made

    def _rounded(self, layer: Layer, weight: Array, scales: Array, *, paired: bool) -> Array:
        if layer.name not in self._together:
            return quantized_weight(weight, layer.axis, scales)
        if self._products is None:
            self._products = self._make_products()
        moved = np.moveaxis(weight, layer.axis, 0)
        rows = moved.reshape(len(moved), -1)
        values = round_together(rows, scales, self._products[layer.input], LIMIT, paired=paired)
        return np.moveaxis(values.reshape(moved.shape), 0, layer.axis)


def _is_matrix(shape: tuple[int, ...]) -> bool:
    return shape[1] <= WIDEST and all(size == 1 for size in shape[2:])


def _rows(values: Array) -> Array:
    """[rows, channels] of an image's channels [N, channels, ...], at most :data:`ROWS` of them, evenly taken."""
    moved = np.moveaxis(values, 1, -1)
    rows = moved.reshape(-1, moved.shape[-1])
    return np.asarray(rows[:: -(-len(rows) // ROWS)], np.float64)
