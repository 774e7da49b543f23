"""Tiny networks for images with random weights, built into graphs, and how these are compared with the networks."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from pipeline.factory.family import Family, Source, Workbench
from pipeline.factory.images.spec import PixelInput, read_pixel_input
from pipeline.models.card import ModelCard
from pipeline.runtime.onnx import open_session
from pipeline.settings import RuntimeSettings

torch.set_num_threads(1)

SIZE = 64
PREPROCESSOR = {
    "size": {"shortest_edge": SIZE, "longest_edge": 96},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
RESNET: dict[str, Any] = {
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 2, 1],
    "layer_type": "basic",
}
Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def trained(network: Any) -> Any:
    """``network`` with batch norms as training leaves them: a fresh one's folding would show nothing."""
    torch.manual_seed(7)
    with torch.no_grad():
        for module in network.modules():
            if "BatchNorm2d" in type(module).__name__:
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
    return network.eval()


def save_model(model: Any, folder: Path) -> Source:
    """``model`` as ``save_pretrained`` leaves it, with a preprocessor; the source that it is."""
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    config = json.loads((folder / "config.json").read_text())
    return Source(
        kind="huggingface", origin="tiny", path=folder, config=config, architecture=config["architectures"][0]
    )


def build(family: Family, source: Source, folder: Path) -> ModelCard:
    built, scratch = folder / "built", folder / "scratch"
    built.mkdir(exist_ok=True)
    scratch.mkdir(exist_ok=True)
    assert family.accepts(source)
    return family.build(
        source, Workbench(name="tiny", version="1", folder=built, scratch=scratch, progress=lambda _: None)
    )


def photos(count: int, size: int = SIZE) -> Pixels:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), np.uint8)


def run(folder: Path, pixels: Pixels, file: str = "fp32.onnx") -> dict[str, Floats]:
    return dict(open_session(folder / "built" / file, RuntimeSettings()).run({"pixels": pixels}))


def normalised(pixels: Pixels, wanted: PixelInput) -> Any:
    """By the formula of Hugging Face's processors and torchvision's transforms."""
    values = (torch.from_numpy(pixels).float() / 255 - torch.tensor(wanted.mean)) / torch.tensor(wanted.std)
    return values.permute(0, 3, 1, 2)


def as_read(pixels: Pixels, source: Source) -> Any:
    assert source.path is not None
    return normalised(pixels, read_pixel_input(source.path))


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def check_detector(model: Any, source: Source, folder: Path, batch: int) -> None:
    """The scores and corners of the graph against those that the logits and boxes of ``model`` come to."""
    pixels = photos(batch)
    with torch.no_grad():
        found = model(pixel_values=as_read(pixels, source))
    x, y, width, height = found.pred_boxes.unbind(-1)
    corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], -1).clamp(0, 1)
    graph = run(folder, pixels)
    np.testing.assert_allclose(graph["scores"], found.logits.softmax(-1)[..., :-1].numpy(), atol=1e-4)
    np.testing.assert_allclose(graph["boxes"], corners.numpy(), atol=1e-4)
