"""INT8 products of whole rows: what a decoder runs fastest on, where its quality allows it.

Weights are int8 with one scale an output channel; activations are uint8 around 128 with one scale a row, found while
the graph runs, so no scale spans two rows and a row's result does not depend on its batch. The product is an integer
one (ONNX Runtime's MatMulIntegerToFloat), as exact in one batch as in another.

Weights use 7 of their 8 bits: processors without VNNI add two products in 16 bits, which saturates with full weights
(see :mod:`pipeline.factory.quantize.qdq`). What the speed costs is quality: single channels of what goes into the
later products of a layer are far larger than the others, and one scale for the row leaves little to these. Those
products are best left to :mod:`pipeline.factory.quantize.weight_only`, and what narrows is: the last one of a
feed-forward part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from pipeline.factory.graph import CONTRIB
from pipeline.factory.quantize.plan import Layer, find_layers
from pipeline.factory.quantize.rebuild import rebuilt
from pipeline.factory.quantize.weight_only import quantize_weights

__all__ = ["METHOD", "quantize_channels", "quantize_rows"]

METHOD = "weights INT8 per channel (7 bits), activations INT8 per row"
# Of what is left to blocks. With those of 32 SmolLM2's steps take 1.06 to 1.15 times as long, and it is nearer to FP32
# by a mean KL of 0.0007.
BLOCK = 64
LARGEST_WEIGHT, ZERO_POINT = 63, 128
STEP = np.float32(1 / 127)
"""Of a quantized activation, as a share of the largest in its row."""
# A largest weight that is cut off a little leaves finer steps to the others.
CUTS = (1.0, 0.95, 0.9, 0.85, 0.8)
# From this version of ONNX on the axes are an input.
AXES_INPUT = 18
Array = npt.NDArray[Any]


def quantize_rows(model: onnx.ModelProto, *, least_widening: float = 0.0) -> onnx.ModelProto:
    """A copy with INT8 products, and the table of the token ids in INT8 blocks. Nodes must have names.

    Args:
        model: in FP32.
        least_widening: products with fewer outputs for each input are left to
            :func:`~pipeline.factory.quantize.weight_only.quantize_weights`, which is slower and much more exact.
    """
    return quantize_weights(_Writer(model, least_widening).write(), block=BLOCK)


def quantize_channels(rows: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Quantize [out, in] to -63 ... 63 with the scale of each row, of those tried, that loses the least square error.

    Returns:
        the values [out, in] and the scales [out].
    """
    whole = np.abs(rows).max(axis=1) / np.float32(LARGEST_WEIGHT)
    whole[whole == 0] = 1
    best, least = whole, np.full(len(rows), np.inf, np.float32)
    for cut in CUTS:
        scales = whole * np.float32(cut)
        error = np.square(_rounded(rows, scales) * scales[:, None] - rows).sum(axis=1)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    return _rounded(rows, best).astype(np.int8), best.astype(np.float32)


def _rounded(rows: Array, scales: Array) -> Array:
    return np.clip(np.rint(rows / scales[:, None]), -LARGEST_WEIGHT, LARGEST_WEIGHT)


class _Writer:
    def __init__(self, model: onnx.ModelProto, least_widening: float) -> None:
        self._model = model
        self._constants = {item.name: item for item in model.graph.initializer}
        self._layers = {layer.name: layer for layer in find_layers(model) if layer.op != "Conv"}
        self._least_widening = least_widening
        self._opset = max(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
        self._nodes: list[Any] = []
        self._added: dict[str, Any] = {}
        self._quantized: dict[str, tuple[str, str]] = {}

    def write(self) -> onnx.ModelProto:
        for node in self._model.graph.node:
            layer = self._layers.get(node.name)
            rows = None if layer is None else self._rows(layer)
            if layer is None or rows is None or rows.shape[0] < self._least_widening * rows.shape[1]:
                self._nodes.append(node)
            else:
                self._multiply(layer, rows, node)
        read = {name for node in self._nodes for name in node.input}
        kept = [item for name, item in self._constants.items() if name in read]
        return rebuilt(self._model, self._nodes, [*kept, *self._added.values()])

    def _rows(self, layer: Layer) -> Array | None:
        """The weight [out, in]; ``None`` for one that is no matrix."""
        weight = np.asarray(numpy_helper.to_array(self._constants[layer.weight]))
        if weight.ndim != 2:
            return None
        return weight if layer.axis == 0 else weight.T

    def _multiply(self, layer: Layer, rows: Array, node: Any) -> None:
        weight, scales = f"{layer.weight}.int8", f"{layer.weight}.channel_scales"
        if weight not in self._added:
            values, found = quantize_channels(rows)
            self._add(weight, values.T)
            self._add(scales, found)
        x, largest = self._quantize(layer.input)
        step, zeros = self._scalar("step", STEP), (self._scalar("u8", np.uint8(ZERO_POINT)),)
        inputs = [x, weight, step, scales, *zeros, self._scalar("s8", np.int8(0))]
        product = self._node("MatMulIntegerToFloat", inputs, f"{node.output[0]}.shares", domain=CONTRIB)
        if layer.bias is None:
            self._node("Mul", [product, largest], node.output[0])
        else:
            self._node("Add", [self._node("Mul", [product, largest], f"{product}.scaled"), layer.bias], node.output[0])

    def _quantize(self, x: str) -> tuple[str, str]:
        """``x`` [..., in] as uint8 shares of the largest value of each row, and that value [..., 1].

        A row of zeros is 0 / 0, which becomes any integer; the product of it is multiplied by 0.
        """
        if x not in self._quantized:
            largest = self._largest(self._node("Abs", [x], f"{x}.abs"), f"{x}.largest")
            shares = self._node("Div", [x, largest], f"{x}.shares")
            inputs = [shares, self._scalar("step", STEP), self._scalar("u8", np.uint8(ZERO_POINT))]
            self._quantized[x] = self._node("QuantizeLinear", inputs, f"{x}.uint8"), largest
        return self._quantized[x]

    def _largest(self, x: str, output: str) -> str:
        if self._opset < AXES_INPUT:
            return self._node("ReduceMax", [x], output, axes=[-1], keepdims=1)
        return self._node("ReduceMax", [x, self._scalar("axis", np.array([-1], np.int64))], output, keepdims=1)

    def _node(self, op: str, inputs: list[str], output: str, **more: Any) -> str:
        self._nodes.append(helper.make_node(op, inputs, [output], name=f"{op} of {output}", **more))
        return output

    def _scalar(self, name: str, value: Any) -> str:
        name = f"rows.{name}"
        if name not in self._added:
            self._add(name, np.asarray(value))
        return name

    def _add(self, name: str, value: Array) -> None:
        self._added[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
