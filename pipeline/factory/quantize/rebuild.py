"""A graph with other nodes and constants, all else the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx
from onnx import helper

from pipeline.factory.graph import CONTRIB

__all__ = ["rebuilt"]


def rebuilt(model: onnx.ModelProto, nodes: Iterable[Any], constants: Iterable[Any]) -> onnx.ModelProto:
    """``model`` with ``nodes`` in the place of its own, and ``constants``; shapes noted for what is gone are left out.

    ONNX Runtime's own operators may be among the nodes.
    """
    graph = model.graph
    copy = onnx.ModelProto()
    for field in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(copy, field, getattr(model, field))
    copy.opset_import.extend(model.opset_import)
    if all(item.domain != CONTRIB for item in model.opset_import):
        copy.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    copy.graph.name, copy.graph.doc_string = graph.name, graph.doc_string
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(constants)
    copy.graph.input.extend(graph.input)
    copy.graph.output.extend(graph.output)
    return copy
