"""The matrix products of a decoder in FP32; :mod:`pipeline.factory.quantize` makes other forms of the whole graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pipeline.factory.graph import GraphWriter

__all__ = ["Projections"]

Weights = Mapping[str, npt.NDArray[np.float32]]


class Projections:
    """How a decoder multiplies by its weights; each weight is [out, in]."""

    def __init__(self, graph: GraphWriter, weights: Weights) -> None:
        self._graph = graph
        self._weights = weights

    def embed(self, ids: str) -> str:
        """Rows of ``embed`` for ``ids`` [N, S]: float32 [N, S, hidden]."""
        return self._graph.node("Gather", [self._graph.constant("embed", self._weights["embed"]), ids])

    def project(self, x: str, weight: str) -> str:
        """``x`` [..., in] times the transposed ``weight``: [..., out]."""
        return self._graph.node("MatMul", [x, self._graph.constant(weight, self._weights[weight].T)])

    def head(self, x: str, weight: str, output: str) -> None:
        """Write ``x`` [N, hidden] times the transposed ``weight`` to ``output`` [N, vocabulary].

        ``weight`` may be ``embed``: the file then holds the matrix once.
        """
        matrix = self._graph.constant(weight, self._weights[weight])
        self._graph.node("Gemm", [x, matrix], outputs=[output], attributes={"transB": 1})
