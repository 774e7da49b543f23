"""EfficientNet-Lite as an ONNX graph, written from numpy weights with ``onnx`` alone.

The shape is that of Google's EfficientNet-Lite (tensorflow/tpu, models/official/efficientnet/lite): inverted residual
blocks without squeeze-and-excitation, ReLU6, TensorFlow's "same" padding. Batch norms are folded into the convolutions,
and scaling to [-1, 1] is part of the graph, so it reads pixels as they are decoded.

Weights, by the names of the PyTorch port: ``_conv_stem``, ``_blocks.<i>._expand_conv``, ``._depthwise_conv``,
``._project_conv``, ``_conv_head`` with ``.weight`` [out, in / groups, k, k]; each followed by a batch norm ``_bn0``,
``_bn1`` or ``_bn2`` with ``.weight``, ``.bias``, ``.running_mean``, ``.running_var``; and ``_fc``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.factory.graph import GraphWriter

__all__ = ["LITE0", "Stage", "build_efficientnet_lite"]

EPSILON = 1e-3
Weights = Mapping[str, npt.NDArray[Any]]


class Stage(Struct, frozen=True):
    """Blocks in a row: how many, kernel, stride of the first, and by how much the first convolution widens."""

    repeats: int
    kernel: int
    stride: int
    expand: int


# Table 1 of the EfficientNet paper (Tan and Le, 2019), which Lite0 keeps; channels are read off the weights.
LITE0 = (
    Stage(1, 3, 1, 1),
    Stage(2, 3, 2, 6),
    Stage(2, 5, 2, 6),
    Stage(3, 3, 2, 6),
    Stage(3, 5, 1, 6),
    Stage(4, 5, 2, 6),
    Stage(1, 3, 1, 6),
)


def build_efficientnet_lite(weights: Weights, stages: tuple[Stage, ...] = LITE0, size: int = 224) -> onnx.ModelProto:
    """Write the FP32 graph: ``pixels`` uint8 [N, size, size, 3] to ``logits`` float32 [N, classes].

    Raises:
        ModelError: a weight is missing, or its kernel is not the stage's.
    """
    try:
        return _Writer(weights, size).write(stages)
    except KeyError as error:
        raise ModelError(f"EfficientNet-Lite: weight {error} is missing.") from error


class _Writer:
    def __init__(self, weights: Weights, size: int) -> None:
        self._weights = weights
        self._graph = GraphWriter("efficientnet-lite")
        self._input_size = self._size = size

    def write(self, stages: tuple[Stage, ...]) -> onnx.ModelProto:
        x = self._conv(self._pixels(), "_conv_stem", "_bn0", stride=2)
        for index, (stage, first) in enumerate(_blocks(stages)):
            x = self._block(x, f"_blocks.{index}", stage, first=first)
        x = self._conv(x, "_conv_head", "_bn1")
        self._classify(x)
        return self._graph.model("EfficientNet-Lite, written by Millrace")

    def _pixels(self) -> str:
        graph, size = self._graph, self._input_size
        pixels = graph.node("Cast", [graph.input("pixels", "uint8", ["N", size, size, 3])], attributes={"to": 1})
        centre = graph.constant("centre", np.array(127.5, np.float32))
        scale = graph.constant("scale", np.array(1 / 127.5, np.float32))
        scaled = graph.node("Mul", [graph.node("Sub", [pixels, centre]), scale])
        return graph.node("Transpose", [scaled], attributes={"perm": [0, 3, 1, 2]})

    def _block(self, x: str, name: str, stage: Stage, *, first: bool) -> str:
        stride = stage.stride if first else 1
        inner = x if stage.expand == 1 else self._conv(x, f"{name}._expand_conv", f"{name}._bn0")
        inner = self._conv(inner, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride, kernel=stage.kernel)
        inner = self._conv(inner, f"{name}._project_conv", f"{name}._bn2", clipped=False)
        return inner if first else self._graph.node("Add", [inner, x])

    def _conv(
        self, x: str, name: str, norm: str, *, stride: int = 1, kernel: int | None = None, clipped: bool = True
    ) -> str:
        weight, bias = self._folded(name, norm)
        actual = weight.shape[-1]
        if kernel not in (None, actual):
            raise ModelError(f"EfficientNet-Lite: {name} has a kernel of {actual}, it should be {kernel}.")
        attributes = {
            "strides": [stride, stride],
            "pads": self._pads(actual, stride),
            "group": weight.shape[0] if weight.shape[1] == 1 else 1,
        }
        names = [self._graph.constant(name, weight), self._graph.constant(f"{name}.bias", bias)]
        out = self._graph.node("Conv", [x, *names], attributes=attributes)
        return self._clip(out) if clipped else out

    def _folded(self, name: str, norm: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The convolution with its batch norm: w * s and b - mean * s, where s = gamma / sqrt(var + epsilon)."""
        part = {key: self._weights[f"{norm}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")}
        scale = part["weight"] / np.sqrt(part["running_var"] + EPSILON)
        weight = self._weights[f"{name}.weight"] * scale[:, None, None, None]
        return weight.astype(np.float32), (part["bias"] - part["running_mean"] * scale).astype(np.float32)

    def _pads(self, kernel: int, stride: int) -> list[int]:
        """TensorFlow's "same": the odd pixel goes to the bottom and the right."""
        out = -(-self._size // stride)
        total = max((out - 1) * stride + kernel - self._size, 0)
        self._size = out
        return [total // 2, total // 2, total - total // 2, total - total // 2]

    def _clip(self, x: str) -> str:
        low = self._graph.constant("zero", np.array(0, np.float32))
        return self._graph.node("Clip", [x, low, self._graph.constant("six", np.array(6, np.float32))])

    def _classify(self, x: str) -> None:
        graph = self._graph
        weight, bias = self._weights["_fc.weight"], self._weights["_fc.bias"]
        flat = graph.node("Flatten", [graph.node("GlobalAveragePool", [x])])
        names = [graph.constant("_fc", weight.T), graph.constant("_fc.bias", bias)]
        graph.node("Gemm", [flat, *names], outputs=["logits"])
        graph.output("logits", "float32", ["N", weight.shape[0]])


def _blocks(stages: tuple[Stage, ...]) -> Iterator[tuple[Stage, bool]]:
    for stage in stages:
        for repeat in range(stage.repeats):
            yield stage, repeat == 0
