"""Tiny models in a folder each, written by hand, for the tests of what is made from FP32."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from pipeline.factory.graph import GraphWriter
from pipeline.factory.recipes.convnet import Stage, build_efficientnet_lite
from pipeline.factory.samples import Sample
from pipeline.models.card import ImageSpec, ModelCard, Variant
from pipeline.models.cardfile import sha256_of, write_card
from pipeline.models.store import ServedModel
from pipeline.settings import ModelSettings, RuntimeSettings, Settings

SIZE = 16
LABELS = ("red", "green", "blue")


def settings_for(store: Path) -> Settings:
    return Settings(models=ModelSettings(store=str(store)), runtime=RuntimeSettings(provider="cpu", threads=1))


def picture(seed: int) -> bytes:
    """A smooth random picture, as a PNG."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def pictures(count: int, seed: int = 0) -> list[Sample]:
    return [Sample(image=picture(seed + number)) for number in range(count)]


def mlp_classifier(store: Path, *, hidden: int = 32) -> ServedModel:
    """Pixels through two products with a Relu between them: three classes."""
    rng = np.random.default_rng(1)
    graph = GraphWriter("mlp")
    inputs = SIZE * SIZE * 3
    pixels = graph.node("Cast", [graph.input("pixels", "uint8", ["N", SIZE, SIZE, 3])], attributes={"to": 1})
    flat = graph.node("Flatten", [graph.node("Mul", [pixels, graph.constant("scale", np.array(1 / 255, np.float32))])])
    first = graph.constant("first", rng.normal(0, inputs**-0.5, (inputs, hidden)).astype(np.float32))
    bias = graph.constant("bias", rng.normal(0, 0.1, hidden).astype(np.float32))
    inner = graph.node("Relu", [graph.node("Gemm", [flat, first, bias])])
    second = graph.constant("second", rng.normal(0, 3, (hidden, len(LABELS))).astype(np.float32))
    graph.node("MatMul", [inner, second], outputs=["logits"])
    graph.output("logits", "float32", ["N", len(LABELS)])
    return _image_model(store, "mlp", graph.model("a classifier for tests"))


def conv_classifier(store: Path, size: int = SIZE) -> ServedModel:
    """A net of convolutions with every kind of part: depthwise, a sum, ReLU6, a pool."""
    rng = np.random.default_rng(11)
    weights: dict[str, np.ndarray] = {}

    def conv(name: str, shape: tuple[int, ...], norm: str) -> None:
        weights[f"{name}.weight"] = rng.normal(0, float(np.prod(shape[1:])) ** -0.5, shape).astype(np.float32)
        for key, low, high in (("weight", 0.5, 2), ("bias", -0.5, 1), ("running_mean", -1, 1), ("running_var", 0.5, 2)):
            weights[f"{norm}.{key}"] = rng.uniform(low, high, shape[0]).astype(np.float32)

    conv("_conv_stem", (8, 3, 3, 3), "_bn0")
    conv("_blocks.0._depthwise_conv", (8, 1, 3, 3), "_blocks.0._bn1")
    conv("_blocks.0._project_conv", (8, 8, 1, 1), "_blocks.0._bn2")
    for block, before in (("_blocks.1", 8), ("_blocks.2", 12)):
        conv(f"{block}._expand_conv", (2 * before, before, 1, 1), f"{block}._bn0")
        conv(f"{block}._depthwise_conv", (2 * before, 1, 3, 3), f"{block}._bn1")
        conv(f"{block}._project_conv", (12, 2 * before, 1, 1), f"{block}._bn2")
    conv("_conv_head", (32, 12, 1, 1), "_bn1")
    weights["_fc.weight"] = rng.normal(0, 2, (len(LABELS), 32)).astype(np.float32)
    weights["_fc.bias"] = rng.normal(0, 0.5, len(LABELS)).astype(np.float32)
    graph = build_efficientnet_lite(weights, (Stage(1, 3, 1, 1), Stage(2, 3, 2, 2)), size)
    return _image_model(store, "conv", graph, size)


def _image_model(store: Path, name: str, graph: onnx.ModelProto, size: int = SIZE) -> ServedModel:
    folder = store / name / "1"
    folder.mkdir(parents=True)
    onnx.save(graph, folder / "fp32.onnx")
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS), encoding="utf-8")
    card = ModelCard(
        name=name,
        version="1",
        task="image-classification",
        description="For tests.",
        license="Apache-2.0",
        source="tests",
        variants={"fp32": Variant(file="fp32.onnx", sha256=sha256_of(folder / "fp32.onnx"))},
        image=ImageSpec(height=size, width=size, channels=3, resize=size, labels="labels.txt"),
        files={"labels.txt": sha256_of(folder / "labels.txt")},
    )
    write_card(card, folder)
    return ServedModel(card=card, folder=folder)
