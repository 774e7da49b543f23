"""Pixels as they are decoded to the numbers a network was trained on, as a part of its graph.

``pixels`` uint8 [N, height, width, channels] becomes float32 [N, channels, height, width]:
``(pixels - centre) * scale``, channel by channel, with the factors of
:class:`~pipeline.factory.images.spec.PixelInput`.
A Sub and a Mul, because static INT8 would round an Add twice: it has a kernel for that. Channels go first while they
are bytes: ONNX Runtime spreads a factor over a whole plane faster than over three neighbours. The planes are lines of
numbers until they are scaled, or it would put channels last again for the integer convolutions behind.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.factory.graph import GraphWriter
from pipeline.factory.images.spec import PixelInput

__all__ = ["with_pixels", "write_pixels"]


def write_pixels(graph: GraphWriter, pixels: PixelInput, name: str = "pixels") -> str:
    """Declare the input ``name`` and write what makes numbers of it. Returns float32 [N, channels, height, width]."""
    image = pixels.image
    raw = graph.input(name, "uint8", ["N", image.height, image.width, image.channels])
    height, width, channels = image.height, image.width, image.channels
    planes = graph.node("Transpose", [raw], attributes={"perm": [0, 3, 1, 2]})
    lines = graph.reshape(planes, [-1, channels, height * width])
    centre = graph.constant(f"{name}.centre", np.array(pixels.centre, np.float32).reshape(-1, 1))
    centred = graph.node("Sub", [graph.node("Cast", [lines], attributes={"to": 1}), centre])
    scale = graph.constant(f"{name}.scale", np.array(pixels.scale, np.float32).reshape(-1, 1, 1))
    return graph.node("Mul", [graph.reshape(centred, [-1, channels, height, width]), scale])


def with_pixels(module: Any, pixels: PixelInput) -> Any:
    """A torch module that feeds ``pixels`` uint8 [N, H, W, C] to ``module``, which reads float32 [N, C, H, W]."""
    import torch

    class FromPixels(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = module
            self.register_buffer("centre", torch.tensor(pixels.centre).reshape(-1, 1))
            self.register_buffer("scale", torch.tensor(pixels.scale).reshape(-1, 1, 1))

        def forward(self, pixels: Any) -> Any:
            planes = pixels.permute(0, 3, 1, 2)
            centred = planes.flatten(2).float() - self.centre
            return self.inner(centred.unflatten(2, planes.shape[2:]) * self.scale)

    return FromPixels().eval()
