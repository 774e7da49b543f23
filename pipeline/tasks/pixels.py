"""From encoded image bytes to the pixels a model reads.

Nothing is decoded before the header's size has been checked: a small file can claim 100,000 x 100,000 pixels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.models.card import ImageSpec
from pipeline.settings import ImageSettings
from pipeline.tasks.dataref import read_dataref
from schemas.errors import PrepareError
from schemas.messages import ImageInput, InferenceRequest

__all__ = ["Pixels", "View", "decode_image", "decode_view", "read_pixels", "read_view"]

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP")
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
}

ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""The EXIF tag, and its values of images that lie on their side (Exif 2.32, 4.6.4)."""
# Our own bound, images.max_pixels, is checked on every header before decoding; Pillow's would cap it at 179 million.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Pixels, and which part of the image they show.

    Attributes:
        pixels: uint8 [height, width, channels], as the model reads them.
        width: of the image as it was sent, turned upright.
        height: likewise.
        box: left, top, right and bottom of the part, in pixels of that image.
    """

    pixels: Pixels
    width: int
    height: int
    box: tuple[float, float, float, float]


def read_pixels(request: InferenceRequest, spec: ImageSpec, images: ImageSettings) -> Pixels:
    """The image of ``request``, sent along or referred to, as uint8 [height, width, channels]. Raises PrepareError."""
    return read_view(request, spec, images).pixels


def read_view(request: InferenceRequest, spec: ImageSpec, images: ImageSettings) -> View:
    """The image of ``request``, sent along or referred to. Raises PrepareError."""
    image = request.input
    if not isinstance(image, ImageInput):
        raise PrepareError("this model reads images, and the record holds text", where="$")
    data = image.data
    if image.dataref is not None:
        data = read_dataref(image.dataref, images.dataref_roots, images.max_bytes)
    if len(data) > images.max_bytes:
        raise PrepareError(f"the image has {len(data)} bytes, more than images.max_bytes = {images.max_bytes}")
    return decode_view(data, spec, images.max_pixels)


def decode_image(data: bytes, spec: ImageSpec, max_pixels: int) -> Pixels:
    """The pixels of :func:`decode_view`, uint8 [height, width, channels]. Raises PrepareError."""
    return decode_view(data, spec, max_pixels).pixels


def decode_view(data: bytes, spec: ImageSpec, max_pixels: int) -> View:
    """Decode, turn upright (EXIF), flatten on white, resize and, unless it is to be stretched, cut out the centre.

    Animated images give their first frame; 16-bit greys are scaled to 8 bits.

    Args:
        data: a JPEG, PNG or WebP file.
        spec: the size, channels and interpolation that the model wants.
        max_pixels: images with more are refused, from their header alone.

    Raises:
        PrepareError: the bytes are no such image, are damaged or cut off, or have too many pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, max_pixels)
            size = image.size  # before a JPEG is decoded at a fraction of it
            return _view(*_upright(_loaded(image, spec)), size, spec)
    except PrepareError:
        raise
    except UnidentifiedImageError as error:
        raise PrepareError(f"not a JPEG, PNG or WebP image ({len(data)} bytes)") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files; all of it is the record's.
        raise PrepareError(f"the image is damaged or cut off: {error}") from error


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise PrepareError(
            f"the image has {width} x {height} = {width * height} pixels, more than images.max_pixels = {max_pixels}",
        )


def _loaded(image: Image.Image, spec: ImageSpec) -> Image.Image:
    # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size for a fraction of the time; twice the target is kept so that
    # the resize still has detail to average.
    image.draft(None, (2 * spec.resize, 2 * spec.resize))
    image.load()
    return image


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image turned as EXIF says, and whether that has swapped its sides."""
    try:
        return ImageOps.exif_transpose(image), image.getexif().get(ORIENTATION) in SIDEWAYS
    except Exception:
        return image, False


def _view(image: Image.Image, swapped: bool, size: tuple[int, int], spec: ImageSpec) -> View:
    box = _centre_box(image.size, spec)
    flat = _flatten(image, "L" if spec.channels == 1 else "RGB")
    small = flat.resize((spec.width, spec.height), RESAMPLING[spec.interpolation], box=box)
    width, height = size[::-1] if swapped else size
    x, y = width / image.width, height / image.height
    return View(
        pixels=np.asarray(small, dtype=np.uint8).reshape(spec.height, spec.width, spec.channels),
        width=width,
        height=height,
        box=(box[0] * x, box[1] * y, box[2] * x, box[3] * y),
    )


def _centre_box(size: tuple[int, int], spec: ImageSpec) -> tuple[float, float, float, float]:
    """The part of the image that remains when its shorter side is resized and the centre is cut out.

    Resizing this part alone gives the same pixels without ever making the whole resized image, which for an image of
    1 x 50,000 pixels would be far larger than the original.
    """
    width, height = size
    if spec.fit == "stretch":
        return (0.0, 0.0, float(width), float(height))
    shorter = min(width, height)
    new_width, new_height = spec.resize * width // shorter, spec.resize * height // shorter
    left, top = round((new_width - spec.width) / 2), round((new_height - spec.height) / 2)
    x, y = width / new_width, height / new_height
    return (left * x, top * y, (left + spec.width) * x, (top + spec.height) * y)


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):
        image = _to_8_bits(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert(mode)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Pillow's own conversion of 16-bit greys clips at 255 instead of scaling."""
    values: npt.NDArray[Any] = np.asarray(image)
    return Image.fromarray((np.clip(values, 0, 65_535) >> 8).astype(np.uint8))
