"""Both forms of the pixels' scaling against the formula that Hugging Face's processors compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.factory.graph import GraphWriter
from pipeline.factory.images.pixel_graph import with_pixels, write_pixels
from pipeline.factory.images.spec import PixelInput
from pipeline.models.card import ImageSpec
from pipeline.runtime.onnx import open_session
from pipeline.settings import RuntimeSettings

INPUT = PixelInput(
    image=ImageSpec(height=5, width=7, channels=3, resize=5),
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
PIXELS = np.random.default_rng(3).integers(0, 256, (4, 5, 7, 3), np.uint8)
EXPECTED = ((PIXELS / 255 - np.array(INPUT.mean)) / np.array(INPUT.std)).transpose(0, 3, 1, 2)


def test_the_nodes_scale_and_normalise_and_put_channels_first(tmp_path: Path) -> None:
    graph = GraphWriter("pixels")
    graph.node("Identity", [write_pixels(graph, INPUT)], outputs=["x"])
    graph.output("x", "float32", ["N", 3, 5, 7])
    model = graph.model("pixels alone")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "pixels.onnx")
    found = open_session(tmp_path / "pixels.onnx", RuntimeSettings()).run({"pixels": PIXELS})["x"]
    np.testing.assert_allclose(found, EXPECTED, atol=1e-6)


def test_the_torch_module_does_the_same() -> None:
    torch = pytest.importorskip("torch")
    found = with_pixels(torch.nn.Identity(), INPUT)(torch.from_numpy(PIXELS))
    np.testing.assert_allclose(found.numpy(), EXPECTED, atol=1e-6)
