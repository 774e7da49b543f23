"""Brings a text encoder in ONNX to the card's contract: ``input_ids`` and ``attention_mask`` in, one output."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from pipeline.errors import ModelError
from pipeline.factory.foreign.edit import GraphEdit, check_float32, shape_of
from schemas.messages import Task

__all__ = ["IDS", "MASK", "NAMES", "adapt_encoder", "token_rows"]

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
EPSILON = 1e-12
INTEGERS = (TensorProto.INT64, TensorProto.INT32)
NAMES: dict[Task, tuple[str, ...]] = {
    "text-classification": ("logits",),
    "embeddings": ("embedding", "sentence_embedding", "text_embeds"),
}
"""What an output may be called; the first is the card's."""


def token_rows(model: onnx.ModelProto) -> int | None:
    """How many tokens the graph has rows for; ``None`` where no table is looked up by its token ids themselves."""
    tables = {tensor.name: tensor for tensor in model.graph.initializer}
    ids, found = {IDS}, list[int]()
    for node in model.graph.node:
        if node.op_type in ("Cast", "Identity", "Reshape") and node.input[0] in ids:
            ids.update(node.output)
        if node.op_type == "Gather" and node.input[1] in ids and node.input[0] in tables:
            found.append(int(tables[node.input[0]].dims[0]))
    return min(found, default=None)


def adapt_encoder(model: onnx.ModelProto, where: str, task: Task) -> int | None:
    """Change ``model`` in place so that it takes token ids and their mask and gives ``logits`` or ``embedding`` alone.

    ``token_type_ids`` become zeros inside. Embeddings are brought to unit length.

    Args:
        model: the graph.
        where: what to call it in messages.
        task: ``text-classification`` or ``embeddings``.

    Returns:
        How many classes or dimensions it gives, where the graph says so.

    Raises:
        ModelError: the inputs or outputs are not those of a text encoder.
    """
    edit = GraphEdit(model)
    _take_ids(edit, where)
    name = NAMES[task][0]
    ranked = {key: value for key, value in edit.outputs.items() if len(shape_of(value)) == 2}
    named = [ranked[key] for key in NAMES[task] if key in ranked]
    chosen = named[0] if named else next(iter(ranked.values())) if len(ranked) == 1 else None
    if chosen is None:
        raise ModelError(_without_output(edit, where, task))
    check_float32(chosen, where)
    tensor = chosen.name if task == "text-classification" else _unit(edit, chosen.name)
    edit.give(tensor, name, shape_of(chosen)[1])
    edit.finish()
    return shape_of(chosen)[1]


def _take_ids(edit: GraphEdit, where: str) -> None:
    if missing := {IDS, MASK} - set(edit.inputs):
        raise ModelError(
            f"{where}: a text encoder has the inputs {IDS} and {MASK}; {' and '.join(sorted(missing))} is missing "
            f"among {', '.join(edit.inputs)}. Rename the inputs when it is exported."
        )
    if unknown := set(edit.inputs) - {IDS, MASK, TYPES}:
        raise ModelError(f"{where}: nobody feeds its input {', '.join(sorted(unknown))}. Export it without.")
    for name in list(edit.inputs):
        value = edit.inputs[name]
        kind, shape = value.type.tensor_type.elem_type, shape_of(value)
        if kind not in INTEGERS or len(shape) != 2:
            raise ModelError(f"{where}: its input {name!r} should be int64 [N, S], with both of these free.")
        if shape[1] is not None:
            raise ModelError(
                f"{where}: its input {name!r} has the fixed length {shape[1]}. Export it with the length free "
                "(dynamic axes)."
            )
        inner = edit.feed(name)
        if name == TYPES:
            zero = edit.constant("zero", np.zeros((), np.int64))
            edit.before("Cast", [edit.before("Mul", [IDS, zero], "millrace.types")], inner, to=kind)
        else:
            edit.declare(name, TensorProto.INT64, ["N", "S"])
            edit.before("Cast", [name], inner, to=kind)


def _unit(edit: GraphEdit, tensor: str) -> str:
    """``tensor`` [N, dimensions] brought to unit length."""
    squares = edit.after("Mul", [tensor, tensor], "millrace.squares")
    axes = edit.constant("axes", np.array([1], np.int64))
    total = edit.after("ReduceSum", [squares, axes], "millrace.total", keepdims=1)
    length = edit.after("Sqrt", [total], "millrace.length")
    least = edit.constant("least", np.array(EPSILON, np.float32))
    return edit.after("Div", [tensor, edit.after("Max", [length, least], "millrace.divisor")], "millrace.unit")


def _without_output(edit: GraphEdit, where: str, task: Task) -> str:
    shapes = ", ".join(f"{name} {shape_of(value)}" for name, value in edit.outputs.items())
    wanted = "logits [N, classes]" if task == "text-classification" else "embedding [N, dimensions], pooling included"
    return (
        f"{where}: for {task} a graph gives {wanted}; this gives {shapes}. Build from the folder with its weights "
        "instead, or export the model with that output."
    )
