"""The layers of a transformer encoder, written from numpy weights with ``onnx`` alone.

Each product with a weight is a Gemm of all places' rows [N * S, in] x [in, out] with its bias, which ONNX Runtime also
adds inside its integer product; what is between them is MultiHeadAttention, LayerNormalization, Gelu. The names of the
weights are in :mod:`pipeline.factory.encoders.spec`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pipeline.factory.encoders.spec import Activation, TransformerSpec
from pipeline.factory.graph import CONTRIB, GraphWriter

__all__ = ["Transformer", "Weights", "write_activation"]

Weights = Mapping[str, npt.NDArray[np.float32]]
# Of torch's sigmoid approximation of GELU, which OpenAI's CLIP was trained with.
QUICK_GELU_ALPHA = 1.702


class Transformer:
    """Writes the parts of an encoder to ``graph``; ``weights`` are by name."""

    def __init__(self, graph: GraphWriter, spec: TransformerSpec, weights: Weights) -> None:
        self._graph, self._spec, self._weights = graph, spec, weights
        self._places = ""

    def layers(self, x: str, lengths: str = "") -> str:
        """All layers.

        Args:
            x: float32 [N, S, hidden].
            lengths: int32 [N], how many of a row's ``S`` places are filled, from the left; empty for all. No filled
                place sees one that is not.

        Returns:
            [N, S, hidden]; with ``norm_first`` the last norm is not part of it.
        """
        shape = self._graph.node("Shape", [x], attributes={"end": 2})
        whole = self._graph.constant("whole", np.array([-1], np.int64))
        self._places = self._graph.node("Concat", [shape, whole], attributes={"axis": 0})
        rows = self._graph.reshape(x, [-1, self._spec.hidden])
        layers = self._norm_first if self._spec.norm_first else self._norm_last
        return self._placed(layers(rows, lengths))

    def norm(self, x: str, name: str) -> str:
        """The layer norm ``name`` of ``x`` [..., hidden]."""
        inputs = [x, *self._norm_constants(name)]
        attributes = {"epsilon": self._spec.epsilon, "axis": -1}
        return self._graph.node("LayerNormalization", inputs, attributes=attributes)

    def linear(self, x: str, name: str) -> str:
        """``x`` [rows, in] times the weight ``name``, plus its bias if it has one: [rows, out]."""
        inputs = [x, self._graph.constant(name, self._weights[name].T)]
        if (bias := f"{name}.bias") in self._weights:
            inputs.append(self._constant(bias))
        return self._graph.node("Gemm", inputs)

    def _norm_last(self, x: str, lengths: str) -> str:
        for layer in range(self._spec.layers):
            name = f"layers.{layer}"
            x, _ = self._add_norm(self._attention(x, lengths, name), x, f"{name}.attn_norm")
            x, _ = self._add_norm(self._feed_forward(x, name), x, f"{name}.mlp_norm")
        return x

    def _norm_first(self, x: str, lengths: str) -> str:
        normed = self.norm(x, "layers.0.attn_norm")
        for layer in range(self._spec.layers):
            name = f"layers.{layer}"
            normed, x = self._add_norm(self._attention(normed, lengths, name), x, f"{name}.mlp_norm")
            fed = self._feed_forward(normed, name)
            if layer + 1 < self._spec.layers:
                normed, x = self._add_norm(fed, x, f"layers.{layer + 1}.attn_norm")
            else:
                x = self._graph.node("Add", [fed, x])
        return x

    def _attention(self, x: str, lengths: str, name: str) -> str:
        parts = [self._placed(self.linear(x, f"{name}.{part}")) for part in "qkv"]
        attributes = {"num_heads": self._spec.heads, "unidirectional": int(self._spec.causal)}
        inputs = [*parts, "", lengths] if lengths else parts
        attended = self._graph.node("MultiHeadAttention", inputs, domain=CONTRIB, attributes=attributes)
        return self.linear(self._graph.reshape(attended, [-1, self._spec.hidden]), f"{name}.o")

    def _feed_forward(self, x: str, name: str) -> str:
        inner = write_activation(self._graph, self._spec.activation, self.linear(x, f"{name}.up"))
        return self.linear(inner, f"{name}.down")

    def _add_norm(self, x: str, residual: str, name: str) -> tuple[str, str]:
        """The norm ``name`` of the sum, and the sum itself."""
        total = self._graph.node("Add", [x, residual])
        return self.norm(total, name), total

    def _placed(self, rows: str) -> str:
        """``rows`` [N * S, ..] as [N, S, ..]."""
        return self._graph.node("Reshape", [rows, self._places])

    def _norm_constants(self, name: str) -> list[str]:
        return [self._constant(name), self._constant(f"{name}.bias")]

    def _constant(self, name: str) -> str:
        return self._graph.constant(name, self._weights[name])


def write_activation(graph: GraphWriter, activation: Activation, x: str) -> str:
    """The activation of ``x``."""
    if activation == "relu":
        return graph.node("Relu", [x])
    if activation == "quick_gelu":
        return graph.node("QuickGelu", [x], domain=CONTRIB, attributes={"alpha": QUICK_GELU_ALPHA})
    return graph.node("FastGelu" if activation == "tanh_gelu" else "Gelu", [x], domain=CONTRIB)
