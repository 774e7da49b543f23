"""The matrix products of a decoder, in FP32 or with INT8 weights.

INT8 is symmetric, in blocks of 32 along the reduced axis, one float scale a block (ONNX Runtime's MatMulNBits with 8
bits). ``accuracy_level`` 4 multiplies in int8: activations are quantized per row and block while the product runs, so
no scale spans two rows and a row's result does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.factory.graph import CONTRIB, GraphWriter

__all__ = ["BLOCK", "Projections", "projections_for", "quantize_blocks"]

BLOCK = 32
ZERO_POINT = 128
Weights = Mapping[str, npt.NDArray[np.float32]]


class Projections(Protocol):
    """How a decoder multiplies by its weights; each weight is [out, in]."""

    def embed(self, ids: str) -> str:
        """Rows of ``embed`` for ``ids`` [N, S]: float32 [N, S, hidden]."""

    def project(self, x: str, weight: str) -> str:
        """``x`` [..., in] times the transposed ``weight``: [..., out]."""

    def head(self, x: str, weight: str, output: str) -> None:
        """Write ``x`` [N, hidden] times the transposed ``weight`` to ``output`` [N, vocabulary].

        ``weight`` is ``embed``, which :meth:`embed` has been called for, or one of its own.
        """


def quantize_blocks(weight: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Quantize [out, in] to uint8 around 128 with a scale for each :data:`BLOCK` of a row.

    Returns:
        the values [out, in / 32, 32], each 1 to 255, and the scales [out, in / 32]: (value - 128) * scale.
    """
    blocks = weight.reshape(weight.shape[0], -1, BLOCK)
    scales = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(127)
    scales[scales == 0] = 1
    values = np.rint(blocks / scales) + ZERO_POINT
    return values.astype(np.uint8), scales[..., 0].astype(np.float32)


def projections_for(precision: Literal["int8", "fp32"], graph: GraphWriter, weights: Weights) -> Projections:
    """The products in ``precision``, writing to ``graph``."""
    return _Int8(graph, weights) if precision == "int8" else _Full(graph, weights)


class _Full:
    """FP32: the reference."""

    def __init__(self, graph: GraphWriter, weights: Weights) -> None:
        self._graph = graph
        self._weights = weights

    def embed(self, ids: str) -> str:
        return self._graph.node("Gather", [self._graph.constant("embed", self._weights["embed"]), ids])

    def project(self, x: str, weight: str) -> str:
        return self._graph.node("MatMul", [x, self._graph.constant(weight, self._weights[weight].T)])

    def head(self, x: str, weight: str, output: str) -> None:
        matrix = self._graph.constant(weight, self._weights[weight])
        self._graph.node("Gemm", [x, matrix], outputs=[output], attributes={"transB": 1})


class _Int8:
    """INT8 weights; an embedding that is the head too is one tensor."""

    def __init__(self, graph: GraphWriter, weights: Weights) -> None:
        self._graph = graph
        self._weights = weights

    def embed(self, ids: str) -> str:
        values, scales = quantize_blocks(self._weights["embed"])
        table = self._graph.constant("embed", values.reshape(values.shape[0], -1))
        return self._graph.node(
            "GatherBlockQuantized",
            [table, ids, self._graph.constant("embed.scales", scales)],
            domain=CONTRIB,
            attributes={"bits": 8, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1},
        )

    def project(self, x: str, weight: str, **more: Any) -> str:
        matrix = self._weights[weight]
        values, scales = quantize_blocks(matrix)
        names = self._graph.constant(weight, values), self._graph.constant(f"{weight}.scales", scales)
        return self._multiply(x, names, matrix.shape, **more)

    def head(self, x: str, weight: str, output: str) -> None:
        if weight != "embed":
            self.project(x, weight, outputs=[output])
            return
        rows, columns = self._weights["embed"].shape
        # The file holds the tied matrix once; ONNX Runtime folds the reshape when it loads the graph.
        shape = self._graph.constant("embed.blocks", np.array([rows, columns // BLOCK, BLOCK], np.int64))
        blocks = self._graph.node("Reshape", ["embed", shape])
        self._multiply(x, (blocks, "embed.scales"), (rows, columns), outputs=[output])

    def _multiply(self, x: str, names: tuple[str, str], shape: tuple[int, ...], **more: Any) -> str:
        attributes = {"N": shape[0], "K": shape[1], "bits": 8, "block_size": BLOCK, "accuracy_level": 4}
        return self._graph.node("MatMulNBits", [x, *names], domain=CONTRIB, attributes=attributes, **more)
