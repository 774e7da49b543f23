"""The card of an image classifier or a detector, and what the user's hints make of its images."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.family import Hints, Source, Workbench
from pipeline.factory.images.spec import PixelInput, read_pixel_input
from pipeline.factory.sources.labels import LABELS, write_labels
from pipeline.models.card import DetectionSpec, ModelCard, Variant
from pipeline.models.cardfile import sha256_of

__all__ = ["FP32", "image_card", "per_channel", "pixel_input_of", "with_hints"]

FP32 = "fp32.onnx"


def image_card(
    source: Source,
    bench: Workbench,
    variant: Variant,
    pixels: PixelInput,
    labels: Sequence[str],
    *,
    description: str,
    detection: DetectionSpec | None = None,
) -> ModelCard:
    """The card of an image model whose graph ``variant`` is in the workbench; ``labels`` are written beside it.

    It is a detector's card with ``detection``, and a classifier's without.
    """
    write_labels(labels, bench.folder)
    return ModelCard(
        name=bench.name,
        version=bench.version,
        task="image-classification" if detection is None else "object-detection",
        description=description,
        license=source.license,
        source=source.origin,
        variants={"fp32": variant},
        image=replace(pixels.image, labels=LABELS),
        detection=detection,
        files={LABELS: sha256_of(bench.folder / LABELS)},
    )


def pixel_input_of(source: Source, *, default_size: int | None = None) -> PixelInput:
    """What a Hugging Face folder and the user's hints say of images. Raises ModelError."""
    channels = source.config.get("num_channels", 3)
    found = read_pixel_input(source.folder, channels=channels, default_size=default_size)
    return with_hints(found, source.hints)


def with_hints(pixels: PixelInput, hints: Hints) -> PixelInput:
    """``pixels`` as the user wants them; the share that is cut out of an image remains. Raises ModelError."""
    image = pixels.image
    if hints.size is not None:
        height, width = hints.size
        shorter = max(image.resize * min(hints.size) // min(image.height, image.width), min(hints.size))
        resize = max(hints.size) if image.fit == "stretch" else shorter
        image = replace(image, height=height, width=width, resize=resize)
    mean = per_channel(hints.mean or pixels.mean, image.channels)
    std = per_channel(hints.std or pixels.std, image.channels)
    return replace(pixels, image=image, mean=mean, std=std)


def per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """``values``, of which there is one for each channel or one for all. Raises ModelError."""
    if len(values) not in (1, channels):
        raise ModelError(f"mean and std need one number or {channels} numbers each, one for each channel of the image.")
    return values * (channels // len(values))
