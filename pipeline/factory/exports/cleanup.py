"""What remains to be done to a graph that came out of torch, so that static INT8 finds its patterns in it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx
from onnx import helper, numpy_helper

from pipeline.factory.graph import PRODUCER

__all__ = ["clean_up"]


def clean_up(model: onnx.ModelProto) -> None:
    """Change ``model`` in place: pooling and flattening by their names, ``N`` for the batch, nothing unused or private.

    A mean over height and width becomes GlobalAveragePool (and Flatten, where the axes are dropped): only that has an
    INT8 kernel. A Reshape of [N, C, 1, 1] to [N, C] becomes Flatten, which needs no computed shape. The factors on the
    pixels go into the convolution that reads them: as a Mul they cost 2 % of an INT8 ResNet-50.
    """
    graph = model.graph
    constants = {item.name: item for item in graph.initializer}
    planes = {item.name for item in graph.value_info if len(item.type.tensor_type.shape.dim) == 4}
    pooled: set[str] = set()
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        graph.node.extend(_rewritten(node, constants, planes, pooled))
    for item in (*graph.input, *graph.output):
        item.type.tensor_type.shape.dim[0].dim_param = "N"
    _fold_factors(graph, constants)
    _drop_unused(graph)
    _drop_traces(model)


def _fold_factors(graph: Any, constants: dict[str, Any]) -> None:
    """Multiply a convolution's weights by the factors [C, 1, 1] that a Mul before it puts on its input alone."""
    read = Counter(name for node in graph.node for name in node.input)
    scaled = {node.output[0]: node for node in graph.node if node.op_type == "Mul"}
    for node in graph.node:
        product = scaled.get(node.input[0]) if node.op_type == "Conv" else None
        if product is None or read[node.input[0]] > 1 or read[node.input[1]] > 1:
            continue
        factors, weight = constants.get(product.input[1]), constants.get(node.input[1])
        if factors is None or weight is None or list(factors.dims) != [weight.dims[1], 1, 1]:
            continue
        folded = numpy_helper.to_array(weight) * numpy_helper.to_array(factors)
        weight.CopyFrom(numpy_helper.from_array(folded, weight.name))
        node.input[0] = product.input[0]


def _rewritten(node: Any, constants: dict[str, Any], planes: set[str], pooled: set[str]) -> list[Any]:
    """The node, or what stands for it.

    ``planes`` are the names that are [N, C, H, W]; ``pooled`` collects those that are [N, C, 1, 1].
    """
    if node.op_type == "ReduceMean" and node.input[0] in planes and _axes(node, constants) == [2, 3]:
        return _pool(node, pooled)
    if node.op_type in {"Reshape", "Squeeze"} and node.input[0] in pooled and not _keeps_rank(node, constants):
        return [_made("Flatten", [node.input[0]], node.output, node.name, axis=1)]
    return [node]


def _pool(node: Any, pooled: set[str]) -> list[Any]:
    keeps = next((item.i for item in node.attribute if item.name == "keepdims"), 1)
    if keeps:
        pooled.add(node.output[0])
        return [_made("GlobalAveragePool", node.input[:1], node.output, node.name)]
    inner = f"{node.output[0]}.pooled"
    return [
        _made("GlobalAveragePool", node.input[:1], [inner], node.name),
        _made("Flatten", [inner], node.output, f"{node.name}.flat", axis=1),
    ]


def _keeps_rank(node: Any, constants: dict[str, Any]) -> bool:
    """Whether the result is something else than two-dimensional, as far as can be seen."""
    shape = constants.get(node.input[1]) if len(node.input) > 1 else None
    return shape is None or numpy_helper.to_array(shape).size != 2


def _axes(node: Any, constants: dict[str, Any]) -> list[int]:
    found = constants.get(node.input[1]) if len(node.input) > 1 else None
    return [] if found is None else [int(axis) % 4 for axis in numpy_helper.to_array(found)]


def _made(op: str, inputs: Any, outputs: Any, name: str, **attributes: Any) -> Any:
    return helper.make_node(op, list(inputs), list(outputs), name=name, **attributes)


def _drop_unused(graph: Any) -> None:
    """Remove nodes and initializers whose results nobody reads."""
    wanted = {item.name for item in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            wanted.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    used = [item for item in graph.initializer if item.name in wanted]
    del graph.initializer[:]
    graph.initializer.extend(used)


def _drop_traces(model: onnx.ModelProto) -> None:
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:], model.functions[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    model.producer_name, model.producer_version, graph.doc_string = PRODUCER, "", ""
