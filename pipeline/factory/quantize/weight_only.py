"""INT8 weights for the matrix products of any FP32 graph.

Blocks of 32 weights share a scale (see :mod:`pipeline.factory.quantize.blocks`). ONNX Runtime's MatMulNBits with
``accuracy_level`` 4 multiplies in int8: activations are quantized inside the product, per row and block, so no scale
spans two rows, a row's result does not depend on its batch, and nothing needs calibration.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from pipeline.factory.graph import CONTRIB
from pipeline.factory.quantize.blocks import BLOCK, quantize_blocks
from pipeline.factory.quantize.plan import Layer, find_layers
from pipeline.factory.quantize.rebuild import rebuilt

__all__ = ["METHOD", "quantize_weights"]

METHOD = "weights INT8 symmetric in blocks of 32, activations INT8 per row and block in the product"
IDS = "input_ids"
Array = npt.NDArray[Any]


def quantize_weights(model: onnx.ModelProto, *, block: int = BLOCK) -> onnx.ModelProto:
    """A copy with INT8 weights in every MatMul and Gemm with a constant weight, and in the table of the token ids.

    A table that is the head's weight too stays one tensor.

    Args:
        model: its nodes have names.
        block: of the products whose rows are whole blocks of that size; others, and tables, have blocks of 32.
    """
    return _Writer(model, block).write()


class _Writer:
    def __init__(self, model: onnx.ModelProto, block: int) -> None:
        self._model, self._block = model, block
        self._constants = {item.name: item for item in model.graph.initializer}
        self._layers = {layer.name: layer for layer in find_layers(model) if layer.op != "Conv"}
        self._tables = {node.input[0] for node in model.graph.node if self._is_table(node)}
        self._nodes: list[Any] = []
        self._added: dict[str, Any] = {}

    def write(self) -> onnx.ModelProto:
        for node in self._model.graph.node:
            if self._is_table(node):
                self._look_up(node)
            elif node.name in self._layers:
                self._multiply(self._layers[node.name], node)
            else:
                self._nodes.append(node)
        return self._assembled()

    def _is_table(self, node: Any) -> bool:
        """Whether ``node`` looks up the rows of token ids in a constant whose rows are whole blocks."""
        table = self._constants.get(node.input[0]) if node.op_type == "Gather" and node.input[1] == IDS else None
        return table is not None and len(table.dims) == 2 and table.dims[1] % BLOCK == 0

    def _look_up(self, node: Any) -> None:
        inputs = [self._table(node.input[0]), IDS, f"{node.input[0]}.scales"]
        attributes = {"bits": 8, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1}
        self._node("GatherBlockQuantized", inputs, node, attributes)

    def _table(self, name: str) -> str:
        if name not in self._added:
            values, scales = quantize_blocks(self._array(name))
            self._add(name, values.reshape(len(values), -1))
            self._add(f"{name}.scales", scales)
        return name

    def _multiply(self, layer: Layer, node: Any) -> None:
        weight = self._array(layer.weight)
        rows = weight if layer.axis == 0 else weight.T
        # A last block that is not whole makes ONNX Runtime's products of blocks of 128 depend on their batch (1.31).
        size = BLOCK if layer.weight in self._tables or rows.shape[1] % self._block else self._block
        inputs = [layer.input, self._blocks(layer, rows, size), f"{layer.weight}.scales"]
        attributes = {"N": rows.shape[0], "K": rows.shape[1], "bits": 8, "block_size": size, "accuracy_level": 4}
        if layer.bias is None:
            self._node("MatMulNBits", inputs, node, attributes)
            return
        product = f"{node.output[0]}.product"
        self._nodes.append(
            helper.make_node("MatMulNBits", inputs, [product], name=node.name, domain=CONTRIB, **attributes)
        )
        self._nodes.append(helper.make_node("Add", [product, layer.bias], [node.output[0]], name=f"{node.name}.bias"))

    def _blocks(self, layer: Layer, rows: Array, size: int) -> str:
        """The name of the blocks [out, in / size, size]; a table's are seen through a Reshape, which is folded."""
        if layer.weight in self._tables:
            shape, blocks = f"{layer.weight}.shape of blocks", f"{layer.weight}.blocks"
            if shape not in self._added:
                self._add(shape, np.array([len(rows), -1, BLOCK], np.int64))
                self._nodes.append(helper.make_node("Reshape", [self._table(layer.weight), shape], [blocks]))
            return blocks
        if layer.weight not in self._added:
            values, scales = quantize_blocks(np.pad(rows, ((0, 0), (0, -rows.shape[1] % size))), size)
            self._add(layer.weight, values)
            self._add(f"{layer.weight}.scales", scales)
        return layer.weight

    def _node(self, op: str, inputs: list[str], replaced: Any, attributes: dict[str, int]) -> None:
        outputs = list(replaced.output)
        self._nodes.append(helper.make_node(op, inputs, outputs, name=replaced.name, domain=CONTRIB, **attributes))

    def _array(self, name: str) -> Array:
        return np.asarray(numpy_helper.to_array(self._constants[name]))

    def _add(self, name: str, value: Array) -> None:
        self._added[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)

    def _assembled(self) -> onnx.ModelProto:
        read = {name for node in self._nodes for name in node.input}
        kept = [item for name, item in self._constants.items() if name in read and name not in self._added]
        return rebuilt(self._model, self._nodes, [*kept, *self._added.values()])
