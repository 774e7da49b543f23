"""YOLOS: a vision transformer whose extra tokens each find an object.

Hugging Face's processor keeps an image's proportions, so sizes differ from image to image; a graph reads one size, and
the image is stretched to it. It is the square of the side that ``preprocessor_config.json`` has as ``shortest_edge``,
its ``height`` and ``width``, or what the user asks for; the learned positions are interpolated to it once, here. Boxes
are shares of the sides, so they need no correction; objects that look narrower than they are found a little less
surely.
"""

from __future__ import annotations

from pipeline.factory.exports.detector import build_detector
from pipeline.factory.exports.pretrained import load_pretrained
from pipeline.factory.family import IMAGE_HINTS, Family, Source, Workbench
from pipeline.factory.images.card import pixel_input_of
from pipeline.models.card import ModelCard

__all__ = ["FAMILY"]

ARCHITECTURES = ("YolosForObjectDetection",)


def _build(source: Source, bench: Workbench) -> ModelCard:
    pixels = pixel_input_of(source)
    return build_detector(source, bench, load_pretrained(source), pixels)


FAMILY = Family(
    name="yolos",
    tasks=("object-detection",),
    architectures=ARCHITECTURES,
    hints=("labels", *IMAGE_HINTS),
    build=_build,
)
