"""Changes a graph at its edges, so that it keeps the contract of :mod:`pipeline.models.card`; the inside stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import ModelError
from pipeline.factory.foreign.check import all_nodes

__all__ = ["GraphEdit", "check_float32", "shape_of"]

PREFIX = "millrace."
FLOATS = {TensorProto.FLOAT16: "float16", TensorProto.DOUBLE: "float64", TensorProto.BFLOAT16: "bfloat16"}
# From this on, initializers need not be inputs too.
MIN_IR_VERSION = 8
Shape = tuple[int | None, ...]


def shape_of(value: onnx.ValueInfoProto) -> Shape:
    """The shape of an input or output; ``None`` where it is free."""
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)


class GraphEdit:
    """One graph while it is changed.

    Args:
        model: is changed in place.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        constants = {tensor.name for tensor in self._graph.initializer}
        self._inputs = {value.name: value for value in self._graph.input if value.name not in constants}
        self._outputs = {value.name: value for value in self._graph.output}
        self._first: list[Any] = []
        del self._graph.input[:], self._graph.output[:], self._graph.value_info[:]
        model.ir_version = max(model.ir_version, MIN_IR_VERSION)

    @property
    def inputs(self) -> dict[str, onnx.ValueInfoProto]:
        """What the graph is fed, by name; those that are handled are taken out."""
        return self._inputs

    @property
    def outputs(self) -> dict[str, onnx.ValueInfoProto]:
        """What the graph gave before."""
        return self._outputs

    def declare(self, name: str, dtype: int, shape: Sequence[int | str]) -> None:
        """A new input of the graph; what has that name inside gets another."""
        self._rename(name)
        self._graph.input.append(helper.make_tensor_value_info(name, dtype, list(shape)))

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """A new constant; its name."""
        self._graph.initializer.append(numpy_helper.from_array(value, PREFIX + name))
        return PREFIX + name

    def before(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """A node that runs before the graph; the name of its output, which may be what the graph reads."""
        self._first.append(helper.make_node(op, list(inputs), [output], f"{PREFIX}{op}.{output}", **attributes))
        return output

    def after(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """A node that runs after the graph; the name of its output."""
        self._graph.node.append(helper.make_node(op, list(inputs), [output], f"{PREFIX}{op}.{output}", **attributes))
        return output

    def producer(self, tensor: str) -> Any:
        """The node that makes ``tensor``, or ``None``."""
        return next((node for node in self._graph.node if tensor in node.output), None)

    def give(self, tensor: str, name: str, size: int | None) -> None:
        """Make ``tensor`` the graph's only output: ``name`` float32 [N, size]."""
        if tensor != name:
            self._rename(name)
            self.after("Identity", [tensor], name)
        self._graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]))

    def feed(self, name: str) -> str:
        """What the inside reads in the place of its input ``name``, to be made by a node of :meth:`before`."""
        self._inputs.pop(name)
        return self._rename(name)

    def finish(self) -> None:
        """Put the new first nodes in their place. The edit must not be used after this."""
        rest = list(self._graph.node)
        del self._graph.node[:]
        self._graph.node.extend([*self._first, *rest])

    def _rename(self, tensor: str) -> str:
        renamed = f"{PREFIX}{tensor}"
        for node in all_nodes(self._graph):
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    if name == tensor:
                        names[position] = renamed
        return renamed


def check_float32(value: onnx.ValueInfoProto, where: str) -> None:
    """Raise ModelError when ``value`` is of another type than float32."""
    kind = value.type.tensor_type.elem_type
    if kind != TensorProto.FLOAT:
        name = FLOATS.get(kind) or TensorProto.DataType.Name(kind).lower()
        raise ModelError(f"{where}: {value.name!r} is {name}, not float32. Export the model in FP32.")
