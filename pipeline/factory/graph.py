"""A small writer of ONNX graphs: constants, nodes, and the model around them.

A model of more than 2 GB is too long for its own format (protocol buffers), so its constants may go to a file beside it
(the ONNX specification, "External Data Files"), each as it comes: a model is never whole in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["CONTRIB", "ELEMENT_TYPES", "PRODUCER", "GraphWriter", "Shape"]

CONTRIB = "com.microsoft"
PRODUCER = "millrace"
OPSETS = (("", 21), (CONTRIB, 1))
# The newest IR version that every ONNX Runtime from 1.19 on reads.
IR_VERSION = 10
ELEMENT_TYPES = {
    "float32": TensorProto.FLOAT,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
}
Shape = Sequence[int | str]
# What is smaller stays in the graph: shapes and axes are read while it is loaded. Pages are what a file is mapped by.
SMALLEST_OUTSIDE = 1_024
PAGE = 4_096


class GraphWriter:
    """Collects the parts of one graph in the order they run. Names are the caller's or made from the operator's.

    Args:
        name: of the graph.
        data: where constants go, instead of into the graph; it is written anew.
    """

    def __init__(self, name: str, data: Path | None = None) -> None:
        self._name = name
        self._data = data
        if data is not None:
            data.write_bytes(b"")
        self._nodes: list[Any] = []
        self._constants: set[str] = set()
        self._model = onnx.ModelProto()
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def input(self, name: str, dtype: str, shape: Shape) -> str:
        """Declare an input; a string in ``shape`` is a free dimension. Returns ``name``."""
        self._inputs.append(helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], list(shape)))
        return name

    def output(self, name: str, dtype: str, shape: Shape) -> None:
        """Declare an output; some node must produce ``name``."""
        self._outputs.append(helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], list(shape)))

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add ``value`` under ``name``, once: a name that is there already is left as it is. Returns ``name``."""
        if name not in self._constants:
            self._constants.add(name)
            # Straight into the model: a list of them would hold every weight twice.
            tensor = self._model.graph.initializer.add()
            if self._data is None or value.nbytes < SMALLEST_OUTSIDE:
                # Not ascontiguousarray: it makes a list of a single number.
                tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, order="C"), name))
            else:
                _write_outside(tensor, name, value, self._data)
        return name

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        *,
        outputs: Sequence[str] | None = None,
        domain: str = "",
        attributes: Mapping[str, Any] | None = None,
    ) -> str:
        """Add one node. Returns its first output, which is named after the operator unless ``outputs`` says.

        An empty name in ``inputs`` or ``outputs`` leaves an optional one out.
        """
        name = f"{op}_{len(self._nodes)}"
        produced = [name] if outputs is None else list(outputs)
        self._nodes.append(
            helper.make_node(op, list(inputs), produced, name=name, domain=domain, **(attributes or {})),
        )
        return produced[0]

    def reshape(self, x: str, shape: Sequence[int], *, output: str | None = None) -> str:
        """``x`` in a constant shape, in which 0 keeps a dimension and -1 takes what is left. Returns the output."""
        wanted = self.constant(f"shape {list(shape)}", np.array(shape, np.int64))
        return self.node("Reshape", [x, wanted], outputs=None if output is None else [output])

    def model(self, description: str) -> onnx.ModelProto:
        """The finished model; the writer must not be used after this."""
        model, graph = self._model, self._model.graph
        graph.name, graph.doc_string = self._name, description
        graph.node.extend(self._nodes)
        graph.input.extend(self._inputs)
        graph.output.extend(self._outputs)
        model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in OPSETS)
        model.ir_version, model.producer_name = IR_VERSION, PRODUCER
        return model


def _write_outside(tensor: TensorProto, name: str, value: npt.NDArray[Any], data: Path) -> None:
    with data.open("ab") as file:
        offset = -(-file.tell() // PAGE) * PAGE
        file.write(bytes(offset - file.tell()))
        file.write(np.ascontiguousarray(value).data)
    tensor.name, tensor.data_type = name, helper.np_dtype_to_tensor_dtype(value.dtype)
    tensor.dims.extend(value.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, field in (("location", data.name), ("offset", offset), ("length", value.nbytes)):
        tensor.external_data.add(key=key, value=str(field))
