"""ResNet of Hugging Face: the graph against the framework, and what static INT8 makes of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from msgspec.structs import replace
from safetensors.numpy import load_file, save_file

from pipeline.errors import ModelError
from pipeline.factory.families.resnet import FAMILY
from pipeline.factory.family import Source
from pipeline.factory.quantize.static import quantize_static_int8
from pipeline.models.card import ModelCard
from tests.unit.pipeline.factory.families.vision import (
    RESNET,
    as_read,
    build,
    operators,
    photos,
    run,
    save_model,
    trained,
)


class Built(NamedTuple):
    model: Any
    source: Source
    card: ModelCard
    folder: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    from transformers import ResNetConfig, ResNetForImageClassification

    folder = tmp_path_factory.mktemp("resnet")
    config = ResNetConfig(**RESNET, id2label={0: "cat", 1: "dog", 2: "owl"})
    model = trained(ResNetForImageClassification(config))
    source = save_model(model, folder / "source")
    return Built(model, source, build(FAMILY, source, folder), folder)


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_the_graph_equals_the_framework(built: Built, batch: int) -> None:
    pixels = photos(batch)
    with torch.no_grad():
        wanted = built.model(as_read(pixels, built.source)).logits.numpy()
    np.testing.assert_allclose(run(built.folder, pixels)["logits"], wanted, atol=1e-4)


def test_the_card_says_what_the_worker_must_do(built: Built) -> None:
    image = built.card.image
    assert image is not None
    assert (built.card.task, image.height, image.fit) == ("image-classification", 64, "stretch")
    assert (built.folder / "built" / "labels.txt").read_text() == "cat\ndog\nowl\n"


def test_the_graph_is_made_of_what_has_an_int8_kernel(built: Built) -> None:
    found = operators(built.folder / "built" / "fp32.onnx")
    assert found.keys() == {
        *("Transpose", "Reshape", "Cast", "Sub"),  # the pixels
        *("Conv", "Relu", "MaxPool", "Add", "GlobalAveragePool", "Flatten", "Gemm"),
    }


def test_static_int8_runs_on_integers_from_the_first_convolution_to_the_last_layer(
    built: Built, tmp_path: Path
) -> None:
    int8 = built.folder / "built" / "int8.onnx"
    quantize_static_int8(built.folder / "built" / "fp32.onnx", int8, [{"pixels": photos(8)}])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(int8, options, providers=["CPUExecutionProvider"])
    found = operators(tmp_path / "optimized.onnx")
    assert found["QLinearConv"] == operators(built.folder / "built" / "fp32.onnx")["Conv"]
    assert found["QuantizeLinear"] == 1
    assert next(iter(found)) == "Transpose", "pixels are scaled plane by plane, not three neighbours at a time"
    assert {"Conv", "Relu", "Add", "MaxPool", "GlobalAveragePool", "Gemm"}.isdisjoint(found)
    full, quantized = (run(built.folder, photos(32), file)["logits"] for file in ("fp32.onnx", "int8.onnx"))
    assert np.abs(full - quantized).max() < 0.1 * np.abs(full).max()


def test_weights_that_are_missing_are_not_made_up(built: Built, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    assert built.source.path is not None
    weights = load_file(built.source.path / "model.safetensors")
    del weights["classifier.1.weight"]
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((built.source.path / name).read_bytes())
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing, such as classifier\.1\.weight"):
        build(FAMILY, replace(built.source, path=tmp_path), tmp_path)


def test_weights_that_are_no_numbers_are_named_and_counted(built: Built, tmp_path: Path) -> None:
    shutil.copytree(built.source.folder, tmp_path / "spoilt")
    file = tmp_path / "spoilt" / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.startswith("classifier") and name.endswith("bias"))
    weights[name][0] = np.nan
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"{name} holds 1 NaN and 0 infinite numbers among its 3"):
        build(FAMILY, replace(built.source, path=tmp_path / "spoilt"), tmp_path)
