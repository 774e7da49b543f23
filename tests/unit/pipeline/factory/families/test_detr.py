"""DETR: scores and boxes of the graph against the framework's own post-processing; backbones of timm's by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.families.detr import FAMILY, load_detr
from pipeline.factory.family import Source
from pipeline.models.card import ModelCard
from tests.unit.pipeline.factory.families.vision import (
    RESNET,
    as_read,
    build,
    check_detector,
    photos,
    save_model,
    trained,
)

Built = tuple[Any, Source, ModelCard, Path]
DETR: dict[str, Any] = {
    "use_timm_backbone": False,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_queries": 7,
    "num_labels": 4,
    "init_std": 0.3,
}


def detr(**backbone: Any) -> Any:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    config = ResNetConfig(**backbone, out_features=["stage4"])
    return trained(DetrForObjectDetection(DetrConfig(**DETR, backbone_config=config)))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("detr")
    model = detr(**RESNET)
    source = save_model(model, folder / "source")
    return model, source, build(FAMILY, source, folder), folder


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_scores_and_boxes_equal_the_framework(built: Built, batch: int) -> None:
    model, source, _, folder = built
    check_detector(model, source, folder, batch)


def as_timm_names_it(name: str) -> str:
    """The names of the first checkpoints, as transformers' script that converted them has the pairs."""
    name = name.replace("model.backbone.model.", "model.backbone.conv_encoder.model.")
    name = name.replace("embedder.embedder.convolution", "conv1").replace("embedder.embedder.normalization", "bn1")
    name = re.sub(r"encoder\.stages\.(\d)\.layers\.", lambda found: f"layer{int(found[1]) + 1}.", name)
    name = name.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")
    name = re.sub(r"\.layer\.(\d)\.convolution", lambda found: f".conv{int(found[1]) + 1}", name)
    return re.sub(r"\.layer\.(\d)\.normalization", lambda found: f".bn{int(found[1]) + 1}", name)


def test_a_backbone_that_timm_names_is_the_same_network(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = detr(embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")
    source = save_model(model, tmp_path)
    weights = {as_timm_names_it(name): tensor for name, tensor in model.state_dict().items()}
    assert "model.backbone.conv_encoder.model.layer2.0.downsample.1.running_var" in weights
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = source.config | {"backbone_config": None, "use_timm_backbone": True, "backbone": "resnet18"}
    loaded = load_detr(replace(source, config=config))
    values = as_read(photos(1), source)
    with torch.no_grad():
        torch.testing.assert_close(loaded(values).logits, model(values).logits)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"backbone": "swin_tiny"}, "timm's swin_tiny; of these resnet18, "),
        ({"backbone": "resnet50", "dilation": True}, "a dilated resnet50"),
        ({"backbone_config": {"model_type": "timm_backbone", "output_stride": 16}}, "a dilated resnet50"),
        ({"backbone": "microsoft/resnet-50", "use_timm_backbone": False}, "Add its `backbone_config`"),
    ],
)
def test_backbones_that_cannot_be_built_are_named(built: Built, changed: dict[str, Any], message: str) -> None:
    config = {**built[1].config, "backbone_config": None, "use_timm_backbone": True, **changed}
    with pytest.raises(ModelError, match=re.escape(message)):
        load_detr(replace(built[1], config=config))
