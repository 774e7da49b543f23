"""An image classifier that never answers an image whose first pixel is :data:`ENDLESS`; that pixel is the class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.models.card import ImageSpec, ModelCard, Variant
from pipeline.models.cardfile import sha256_of, write_card
from pipeline.models.store import ServedModel

__all__ = ["CLASSES", "ENDLESS", "loop", "put_endless"]

ENDLESS, CLASSES = 66, 10


def loop(value: str, result: str) -> list[onnx.NodeProto]:
    """``result`` is ``value``, as soon as no number in that is :data:`ENDLESS`: it is looked at again and again.

    Both are float32. The graph needs the initializers of :func:`constants`.
    """
    body = helper.make_graph(
        [
            helper.make_node("Equal", ["looked_at", "endless"], ["same"]),
            helper.make_node("Cast", ["same"], ["counted"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["counted"], ["any"], keepdims=0),
            helper.make_node("Cast", ["any"], ["again"], to=TensorProto.BOOL),
            helper.make_node("Identity", ["looked_at"], ["unchanged"]),
        ],
        "look_again",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("looked_at", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("unchanged", TensorProto.FLOAT, None),
        ],
    )
    return [helper.make_node("Loop", ["", "yes", value], [result], body=body)]


def constants() -> list[onnx.TensorProto]:
    """What :func:`loop` needs."""
    return [
        numpy_helper.from_array(np.array(ENDLESS, np.float32), "endless"),
        numpy_helper.from_array(np.array(True), "yes"),
    ]


def classifier() -> onnx.ModelProto:
    """uint8 pixels [N, 8, 8, 1] to logits [N, 10]."""
    inner, outer = np.zeros((64, 16), np.float32), np.zeros((16, 1), np.float32)
    inner[0, 0] = outer[0, 0] = 1
    nodes = [
        helper.make_node("Cast", ["pixels"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["numbers"], ["flat"]),
        *loop("flat", "looped"),
        helper.make_node("MatMul", ["looped", "inner"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "outer"], ["first"]),
        helper.make_node("Sub", ["first", "classes"], ["apart"]),
        helper.make_node("Abs", ["apart"], ["far"]),
        helper.make_node("Neg", ["far"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "endless",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 8, 8, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        [
            *constants(),
            numpy_helper.from_array(inner, "inner"),
            numpy_helper.from_array(outer, "outer"),
            numpy_helper.from_array(np.arange(CLASSES, dtype=np.float32)[None], "classes"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def put_endless(store: Path) -> ServedModel:
    """``endless@1`` in ``store``, FP32 alone."""
    folder = store / "endless" / "1"
    folder.mkdir(parents=True)
    onnx.save(classifier(), folder / "fp32.onnx")
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in range(CLASSES)), encoding="utf-8")
    card = ModelCard(
        name="endless",
        version="1",
        task="image-classification",
        description="Loops on some images.",
        license="Apache-2.0",
        source="tests",
        image=ImageSpec(height=8, width=8, channels=1, resize=8, labels="labels.txt"),
        variants={"fp32": Variant(file="fp32.onnx", sha256=sha256_of(folder / "fp32.onnx"))},
        files={"labels.txt": sha256_of(folder / "labels.txt")},
    )
    write_card(card, folder)
    return ServedModel(card=card, folder=folder)
