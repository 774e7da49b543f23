"""Fuses each norm with the sums before it, for GPUs.

There one kernel (ONNX Runtime's SkipLayerNormalization and SkipSimplifiedLayerNormalization) beats three. On the CPU it
takes several times as long as an Add and a LayerNormalization, so graphs are written with these; and ONNX Runtime
itself fuses only sums that nobody else reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from typing import Any

from onnx import helper

from pipeline.factory.graph import CONTRIB

__all__ = ["with_fused_norms"]

FUSED = {
    "LayerNormalization": "SkipLayerNormalization",
    "SimplifiedLayerNormalization": "SkipSimplifiedLayerNormalization",
}
EPSILON = 1e-5


def with_fused_norms(nodes: Iterable[Any], constants: Container[str]) -> list[Any]:
    """``nodes`` in their order, with the norm of a sum, the sum, and the bias added before it, in one.

    Args:
        nodes: of a graph whose norms are over the last of two or three axes.
        constants: names of its initializers.
    """
    nodes = list(nodes)
    makers = {name: node for node in nodes for name in node.output}
    readers = Counter(name for node in nodes for name in node.input)
    norms = {node.input[0]: node for node in nodes if node.op_type in FUSED}
    sums = {name: makers[name] for name in norms if name in makers and _is_sum(makers[name], constants)}
    biases = {name: _bias_of(total, makers, readers, constants) for name, total in sums.items()}
    inside = [norms[name] for name in sums] + [bias for bias in biases.values() if bias is not None]
    gone = {node.output[0] for node in inside}  # a node may have no name
    kept = (node for node in nodes if node.output[0] not in gone)
    return [
        _fused(node, norms[node.output[0]], biases[node.output[0]]) if node.output[0] in sums else node for node in kept
    ]


def _is_sum(node: Any, constants: Container[str]) -> bool:
    return node.op_type == "Add" and not any(name in constants for name in node.input)


def _bias_of(total: Any, makers: Mapping[str, Any], readers: Counter[str], constants: Container[str]) -> Any:
    """The Add of a constant that makes one part of ``total``, if nothing else reads it."""
    parts = (makers[name] for name in total.input if name in makers and readers[name] == 1)
    return next((part for part in parts if part.op_type == "Add" and part.input[1] in constants), None)


def _fused(total: Any, norm: Any, biased: Any) -> Any:
    parts = list(total.input)
    if biased is not None:
        parts[parts.index(biased.output[0])] = biased.input[0]
    inputs = [*parts, *norm.input[1:]]
    if biased is not None:
        if FUSED[norm.op_type] == "SkipLayerNormalization":
            inputs += [""] * (4 - len(inputs))
        inputs.append(biased.input[1])
    epsilon = next((item.f for item in norm.attribute if item.name == "epsilon"), EPSILON)
    outputs = [norm.output[0], "", "", total.output[0]]
    op = FUSED[norm.op_type]
    return helper.make_node(op, inputs, outputs, name=norm.name, domain=CONTRIB, epsilon=epsilon)
