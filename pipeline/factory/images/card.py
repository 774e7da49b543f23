"""The card of a classifier or a detector that was exported from a framework, and the labels beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.family import Hints, Source, Workbench
from pipeline.factory.images.spec import PixelInput, read_pixel_input
from pipeline.models.card import DetectionSpec, ModelCard, Variant
from pipeline.models.cardfile import sha256_of

__all__ = ["FP32", "LABELS", "image_card", "labels_of", "per_channel", "pixel_input_of", "with_hints"]

FP32, LABELS = "fp32.onnx", "labels.txt"


def image_card(
    source: Source,
    bench: Workbench,
    pixels: PixelInput,
    labels: Sequence[str],
    *,
    description: str,
    detection: DetectionSpec | None = None,
) -> ModelCard:
    """The card of the graph ``fp32.onnx`` in the workbench; ``labels`` are written beside it.

    It is a detector's card with ``detection``, and a classifier's without.
    """
    path = bench.folder / LABELS
    path.write_text("".join(f"{' '.join(label.split())}\n" for label in labels), encoding="utf-8")
    method = "exported from torch"
    return ModelCard(
        name=bench.name,
        version=bench.version,
        task="image-classification" if detection is None else "object-detection",
        description=description,
        license=source.license,
        source=source.origin,
        variants={"fp32": Variant(file=FP32, sha256=sha256_of(bench.folder / FP32), method=method)},
        image=replace(pixels.image, labels=LABELS),
        detection=detection,
        files={LABELS: sha256_of(path)},
    )


def pixel_input_of(source: Source, folder: Path, *, default_size: int | None = None) -> PixelInput:
    """What a Hugging Face folder and the user's hints say of images. Raises ModelError."""
    channels = source.config.get("num_channels", 3)
    found = read_pixel_input(folder, channels=channels, default_size=default_size)
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


def labels_of(source: Source, classes: int, known: Mapping[Any, str] | Sequence[str] = ()) -> tuple[str, ...]:
    """The names of ``classes`` classes: from the user's file, or ``known``, or else numbered.

    Args:
        source: its hints may name a file.
        classes: how many the network has.
        known: names in order, or by number (``id2label`` of a Hugging Face config).

    Raises:
        ModelError: the user's file cannot be read or has another number of labels.
    """
    if source.hints.labels is not None:
        return _read_labels(source.hints.labels, classes)
    names = {int(number): name for number, name in known.items()} if isinstance(known, Mapping) else known
    if len(names) != classes:
        return tuple(f"class {number}" for number in range(classes))
    return tuple(str(names[number]) for number in range(classes))


def _read_labels(path: Path, classes: int) -> tuple[str, ...]:
    try:
        labels = tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: the labels cannot be read: {error}.") from error
    if len(labels) != classes:
        raise ModelError(f"{path}: it has {len(labels)} labels, and the network has {classes} classes.")
    return labels
