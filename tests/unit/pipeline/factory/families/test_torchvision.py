"""Classifiers of torchvision, from checkpoints: two shapes of the last layer, and checkpoints that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from pipeline.errors import ModelError
from pipeline.factory.families.torchvision import FAMILY
from pipeline.factory.family import Hints, Source
from pipeline.factory.images.spec import PixelInput
from pipeline.models.card import ModelCard
from tests.unit.pipeline.factory.families.vision import build, normalised, operators, photos, run, trained

NAMES = ("resnet18", "squeezenet1_1")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Built = tuple[Any, ModelCard, Path]


def source_of(name: str, path: Path | None, **hints: Any) -> Source:
    return Source(kind="torchvision", origin=f"torchvision:{name}", path=path, architecture=name, hints=Hints(**hints))


@pytest.fixture(scope="module", params=NAMES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp(request.param)
    network = trained(torchvision.models.get_model(request.param, weights=None, num_classes=7))
    torch.save(network.state_dict(), folder / "checkpoint.pth")
    source = source_of(request.param, folder / "checkpoint.pth", size=(64, 64))
    return network, build(FAMILY, source, folder), folder


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_the_graph_equals_the_framework(built: Built, batch: int) -> None:
    network, card, folder = built
    assert card.image is not None
    mean, std = IMAGENET
    pixels = photos(batch)
    with torch.no_grad():
        wanted = network(normalised(pixels, PixelInput(image=card.image, mean=mean, std=std))).numpy()
    np.testing.assert_allclose(run(folder, pixels)["logits"], wanted, atol=1e-4)


def test_the_card_has_torchvisions_preprocessing_and_numbered_labels(built: Built) -> None:
    _, card, folder = built
    assert card.image is not None
    assert (card.image.height, card.image.resize, card.image.interpolation) == (64, 73, "bilinear")
    assert (folder / "built" / "labels.txt").read_text().splitlines()[::6] == ["class 0", "class 6"]


def test_no_batch_norm_and_no_computed_shape_is_left(built: Built) -> None:
    found = operators(built[2] / "built" / "fp32.onnx")
    assert {"BatchNormalization", "Shape", "Gather"}.isdisjoint(found)
    assert (found["GlobalAveragePool"], found["Reshape"]) == (1, 2), "the pixels' lines and planes"


def test_the_users_labels_are_taken_and_counted(built: Built, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\n")
    checkpoint = built[2] / "checkpoint.pth"
    name = "resnet18" if "resnet" in built[2].name else "squeezenet1_1"
    with pytest.raises(ModelError, match="it has 2 labels, and the network has 7 classes"):
        build(FAMILY, source_of(name, checkpoint, labels=labels, size=(64, 64)), tmp_path)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    weights = torchvision.models.get_model("resnet34", weights=None).state_dict()
    torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, tmp_path / "resnet34.pth")
    with pytest.raises(ModelError, match=r"it has layer1\.2\.bn1\.bias .* Give the torchvision name"):
        build(FAMILY, source_of("resnet18", tmp_path / "resnet34.pth"), tmp_path)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"the checkpoint has no fc\.weight"):
        build(FAMILY, source_of("resnet18", tmp_path / "other.pth"), tmp_path)


def test_a_name_that_is_not_torchvisions_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no classifier 'resnet51'\. Did you mean resnet50"):
        build(FAMILY, source_of("resnet51", None), tmp_path)
    with pytest.raises(ModelError, match="no classifier 'fasterrcnn_resnet50_fpn'"):
        build(FAMILY, source_of("fasterrcnn_resnet50_fpn", None), tmp_path)


def test_without_a_network_the_user_is_asked_for_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ModelError, match=r"ResNet18_Weights\.IMAGENET1K_V1 cannot be downloaded: .*--checkpoint FILE"):
        build(FAMILY, source_of("resnet18", None), tmp_path)


def test_a_missing_or_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.pth: the checkpoint cannot be read"):
        build(FAMILY, source_of("resnet18", tmp_path / "gone.pth"), tmp_path)
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"bad\.pth: this is no PyTorch checkpoint"):
        build(FAMILY, source_of("resnet18", tmp_path / "bad.pth"), tmp_path)
