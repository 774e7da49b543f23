"""What stands behind the layers of an encoder: one row for each text or image, and what is made of it."""

from __future__ import annotations

import numpy as np

from pipeline.factory.encoders.layers import Weights
from pipeline.factory.graph import GraphWriter

__all__ = ["write_first", "write_logits", "write_mean", "write_product", "write_row_at", "write_unit"]

LEAST_LENGTH = 1e-12


def write_first(graph: GraphWriter, x: str) -> str:
    """The first place's row of ``x`` [N, S, hidden]: [N, hidden]."""
    return graph.node("Gather", [x, graph.constant("first", np.array(0, np.int64))], attributes={"axis": 1})


def write_row_at(graph: GraphWriter, x: str, places: str) -> str:
    """The row of ``x`` [N, S, hidden] at ``places`` int64 [N]: [N, hidden]."""
    indices = graph.node("Unsqueeze", [places, graph.constant("last_axis", np.array([-1], np.int64))])
    return graph.node("GatherND", [x, indices], attributes={"batch_dims": 1})


def write_mean(graph: GraphWriter, x: str, mask: str) -> str:
    """The mean over the places of ``x`` [N, S, hidden] where ``mask`` int64 [N, S] is 1: [N, hidden].

    A product with the mask: ONNX Runtime's ReduceSum adds up the places of one row in another order than those of two.
    """
    axis = graph.constant("places_axis", np.array([1], np.int64))
    weights = graph.node("Cast", [mask], attributes={"to": 1})
    product = graph.node("MatMul", [graph.node("Unsqueeze", [weights, axis]), x])
    count = graph.node("ReduceSum", [weights, axis], attributes={"keepdims": 1})
    return graph.node("Div", [graph.node("Squeeze", [product, axis]), count])


def write_product(graph: GraphWriter, x: str, name: str, weights: Weights, output: str | None = None) -> str:
    """``x`` [N, in] times the weight ``name`` [out, in], plus its bias if it has one: [N, out]."""
    inputs = [x, graph.constant(name, weights[name].T)]
    if (bias := f"{name}.bias") in weights:
        inputs.append(graph.constant(bias, weights[bias]))
    return graph.node("Gemm", inputs, outputs=None if output is None else [output])


def write_logits(graph: GraphWriter, x: str, weights: Weights) -> None:
    """The graph's output ``logits`` [N, classes], of ``x`` [N, hidden] and the weight ``classifier``."""
    write_product(graph, x, "classifier", weights, "logits")
    graph.output("logits", "float32", ["N", weights["classifier"].shape[0]])


def write_unit(graph: GraphWriter, x: str, dimensions: int) -> None:
    """The graph's output ``embedding`` [N, dimensions]: ``x`` brought to unit length."""
    length = graph.node("ReduceL2", [x, graph.constant("last_axis", np.array([-1], np.int64))])
    least = graph.constant("least_length", np.array(LEAST_LENGTH, np.float32))
    graph.node("Div", [x, graph.node("Max", [length, least])], outputs=["embedding"])
    graph.output("embedding", "float32", ["N", dimensions])
