"""What ``preprocessor_config.json`` says of a Hugging Face model's images, in this project's terms.

The file has had many spellings; all of these are read: ``size`` as a number, a pair, ``{height, width}`` or
``{shortest_edge}`` (``longest_edge`` and ``max_size`` are left unheeded); ``crop_size`` likewise; ``crop_pct``
(ConvNeXT's processor, which the ResNets use too); ``resample`` as Pillow's number or as a name; and, in transformers 5,
the whole of it as ``image_processor`` of ``processor_config.json``.

Where Hugging Face keeps the proportions and cuts nothing out (detectors: ``shortest_edge`` alone), the image is
stretched to a square of that side: a served graph reads one size. Where it stretches before it cuts (DeiT), the
proportions are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.factory.sources.json_file import read_json_object
from pipeline.models.card import ImageSpec

__all__ = ["PixelInput", "parse_pixel_input", "read_pixel_input"]

FILES = ("preprocessor_config.json", "processor_config.json")
Interpolation = Literal["nearest", "bilinear", "bicubic", "box"]
# The numbers are Pillow's.
RESAMPLE: dict[int, Interpolation] = {0: "nearest", 2: "bilinear", 3: "bicubic", 4: "box"}
# Processors that are bicubic where the file does not say; the others are bilinear.
BICUBIC = ("Beit", "Bit", "Blip", "CLIP", "ConvNext", "DeiT", "Levit", "Siglip")
# ConvNeXT's processor cuts nothing out from this side on.
CONVNEXT_WHOLE = 384


class PixelInput(Struct, frozen=True, kw_only=True):
    """How an image becomes ``pixels``, and how the graph makes numbers of these.

    Attributes:
        image: what the worker does.
        mean: per channel, taken off after scaling.
        std: per channel, divided by.
        rescale_factor: on the bytes, before that.
    """

    image: ImageSpec
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale_factor: float = 1 / 255

    @property
    def centre(self) -> tuple[float, ...]:
        """Per channel, in bytes: the network reads ``(pixels - centre) * scale``."""
        return tuple(mean / self.rescale_factor for mean in self.mean)

    @property
    def scale(self) -> tuple[float, ...]:
        """Per channel: see :attr:`centre`."""
        return tuple(self.rescale_factor / std for std in self.std)


def read_pixel_input(folder: Path, *, channels: int = 3, default_size: int | None = None) -> PixelInput:
    """Read what the files in ``folder`` say of images.

    Args:
        folder: of a Hugging Face model.
        channels: that the model reads.
        default_size: the side of the model's images, where the file has none.

    Raises:
        ModelError: there is no such file, or it says what cannot be done here.
    """
    for file in (folder / name for name in FILES):
        if file.is_file():
            config = read_json_object(file)
            return parse_pixel_input(
                config.get("image_processor", config), where=str(file), channels=channels, default_size=default_size
            )
    raise ModelError(f"{folder}: there is no {FILES[0]}, so nobody knows what images the model wants. Add the file.")


def parse_pixel_input(
    config: Mapping[str, Any], *, where: str = FILES[0], channels: int = 3, default_size: int | None = None
) -> PixelInput:
    """What a processor's ``config`` says; ``where`` names it in messages. Raises ModelError."""
    try:
        return _parse(config, channels, default_size)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{where}: it says nothing that can be understood of images: {error!r}.") from error


def _parse(config: Mapping[str, Any], channels: int, default_size: int | None) -> PixelInput:
    if channels not in (1, 3):
        raise ModelError(f"the model reads images of {channels} channels. Only 1 and 3 can be served.")
    normalize = config.get("do_normalize", True)
    height, width, resize, fit = _fit(config, default_size)
    image = ImageSpec(
        height=height,
        width=width,
        channels=1 if channels == 1 else 3,
        resize=resize,
        interpolation=_interpolation(config),
        fit=fit,
    )
    return PixelInput(
        image=image,
        mean=_per_channel(config, "image_mean", channels) if normalize else (0.0,) * channels,
        std=_per_channel(config, "image_std", channels) if normalize else (1.0,) * channels,
        rescale_factor=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
    )


def _fit(config: Mapping[str, Any], default_size: int | None) -> tuple[int, int, int, Literal["crop", "stretch"]]:
    """Height, width, the shorter side after resizing, and what becomes of the proportions."""
    size = config.get("size", default_size)
    if config.get("do_center_crop") and config.get("crop_size", size) is not None:
        height, width = _sides(config.get("crop_size", size))
        return height, width, min(_sides(size)) if size is not None else min(height, width), "crop"
    if size is None:
        raise ModelError("there is no `size`. Add one, such as 224.")
    height, width = _sides(size)
    if _processor(config).startswith("ConvNext") and height < CONVNEXT_WHOLE:
        return height, width, int(height / config.get("crop_pct", 224 / 256)), "crop"
    return height, width, max(height, width), "stretch"


def _sides(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        side = size.get("shortest_edge")
        height, width = (side, side) if side else (size.get("height"), size.get("width"))
    else:
        height, width = (size, size) if isinstance(size, int) else tuple(size)
    if not height or not width:
        raise ModelError(f"the size {size!r} is not understood. Give a number, or `height` and `width`.")
    return int(height), int(width)


def _interpolation(config: Mapping[str, Any]) -> Interpolation:
    resample = config.get("resample")
    if resample is None:
        return "bicubic" if _processor(config).startswith(BICUBIC) else "bilinear"
    known: dict[Any, Interpolation] = {**RESAMPLE, **{name: name for name in RESAMPLE.values()}}
    if resample not in known:
        raise ModelError(f"`resample` {resample!r} is not known. Change it to 3 (bicubic) or 2 (bilinear).")
    return known[resample]


def _processor(config: Mapping[str, Any]) -> str:
    return str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")


def _per_channel(config: Mapping[str, Any], key: str, channels: int) -> tuple[float, ...]:
    if key not in config:
        raise ModelError(f"`do_normalize` is on and there is no `{key}`. Add it, one number a channel.")
    given = config[key]
    values = tuple(float(value) for value in (given if isinstance(given, list | tuple) else [given]))
    if len(values) not in (1, channels):
        raise ModelError(f"`{key}` has {len(values)} numbers, and the model reads {channels} channels.")
    return values * (channels // len(values))
