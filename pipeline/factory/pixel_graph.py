"""Pixels as they are decoded to the numbers a network was trained on, as a part of its graph.

``pixels`` uint8 [N, height, width, channels] becomes float32 [N, channels, height, width]:
``(pixels - centre) * scale``, channel by channel, with the factors of :class:`~pipeline.factory.image_spec.PixelInput`.
A Sub and a Mul, because static INT8 would round an Add twice: it has a kernel for that.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.factory.graph import GraphWriter
from pipeline.factory.image_spec import PixelInput

__all__ = ["with_pixels", "write_pixels"]


def write_pixels(graph: GraphWriter, pixels: PixelInput, name: str = "pixels") -> str:
    """Declare the input ``name`` and write what makes numbers of it. Returns float32 [N, channels, height, width]."""
    image = pixels.image
    raw = graph.input(name, "uint8", ["N", image.height, image.width, image.channels])
    centre = graph.constant(f"{name}.centre", np.array(pixels.centre, np.float32))
    scale = graph.constant(f"{name}.scale", np.array(pixels.scale, np.float32))
    numbers = graph.node("Cast", [raw], attributes={"to": 1})
    scaled = graph.node("Mul", [graph.node("Sub", [numbers, centre]), scale])
    return graph.node("Transpose", [scaled], attributes={"perm": [0, 3, 1, 2]})


def with_pixels(module: Any, pixels: PixelInput) -> Any:
    """A torch module that feeds ``pixels`` uint8 [N, H, W, C] to ``module``, which reads float32 [N, C, H, W]."""
    import torch

    class FromPixels(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = module
            self.register_buffer("centre", torch.tensor(pixels.centre))
            self.register_buffer("scale", torch.tensor(pixels.scale))

        def forward(self, pixels: Any) -> Any:
            return self.inner(((pixels.float() - self.centre) * self.scale).permute(0, 3, 1, 2))

    return FromPixels().eval()
