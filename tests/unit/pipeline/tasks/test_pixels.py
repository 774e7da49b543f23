from __future__ import annotations

import contextlib
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.models.card import ImageSpec
from pipeline.tasks.pixels import decode_image, decode_view
from schemas.errors import PrepareError
from tests.unit.pipeline.helpers import encoded

MAX_PIXELS = 50_000_000
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def spec(size: int = 8, **fields: Any) -> ImageSpec:
    values: dict[str, Any] = {"height": size, "width": size, "resize": size, "channels": 3, "labels": "labels.txt"}
    return ImageSpec(**(values | fields))


def decode(data: bytes, **fields: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return decode_image(data, spec(**fields), MAX_PIXELS)


def halves(left: Any, right: Any, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> Image.Image:
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + b"\0\0\0\0IDAT"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_each_format_gives_pixels_of_the_wanted_shape(file_format: str) -> None:
    pixels = decode(encoded(Image.new("RGB", (40, 30), RED), file_format))
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - RED).max() <= 4


def test_a_header_of_100_000_by_100_000_pixels_is_refused_undecoded() -> None:
    with pytest.raises(PrepareError, match=r"100000 x 100000 = 10000000000 pixels, more than images.max_pixels"):
        decode(png_header(100_000, 100_000))


def test_the_bound_on_pixels_may_be_above_pillows_own() -> None:
    with pytest.raises(PrepareError, match="damaged or cut off"):
        decode_image(png_header(20_000, 20_000), spec(), 10**9)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_a_cut_off_image_is_refused(file_format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encoded(noise, file_format)
    with pytest.raises(PrepareError, match="damaged or cut off"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", bytes(1000)]
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(PrepareError, match="image"):
        decode(data)


def test_a_gif_is_refused_although_pillow_reads_it() -> None:
    with pytest.raises(PrepareError, match="not a JPEG, PNG or WebP"):
        decode(encoded(Image.new("P", (8, 8)), "GIF"))


def test_any_damage_gives_pixels_or_a_prepare_error() -> None:
    random = np.random.default_rng(0)
    for file_format in ("JPEG", "PNG", "WEBP"):
        whole = encoded(halves(RED, BLUE), file_format)
        for _ in range(200):
            data = bytearray(whole)
            for at in random.integers(0, len(data), 3):
                data[at] = random.integers(256)
            with contextlib.suppress(PrepareError):
                assert decode(bytes(data)).shape == (8, 8, 3)


def test_an_exif_rotation_is_undone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was turned: the file's left is the picture's top.
    pixels = decode(encoded(halves(RED, BLUE), "JPEG", exif=exif, quality=95))
    assert np.abs(pixels[0].astype(int) - RED).max() < 20
    assert np.abs(pixels[-1].astype(int) - BLUE).max() < 20


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_spoil_the_picture() -> None:
    pixels = decode(encoded(Image.new("RGB", (8, 8), RED), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff", quality=95))
    assert pixels.shape == (8, 8, 3)


def test_transparent_pixels_become_white() -> None:
    for mode, clear in (("RGBA", (255, 0, 0, 0)), ("LA", (0, 0))):
        assert (decode(encoded(Image.new(mode, (8, 8), clear), "PNG")) == 255).all()


def test_a_palette_gives_its_colours_and_its_transparency() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, *RED])
    assert (decode(encoded(image, "PNG")) == RED).all()
    assert (decode(encoded(image, "PNG", transparency=1)) == 255).all()


def test_cmyk_becomes_rgb() -> None:
    pixels = decode(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - RED).max() < 40


def test_16_bit_greys_are_scaled_not_clipped() -> None:
    image = Image.fromarray(np.full((8, 8), 0x8000, np.uint16))
    assert (decode(encoded(image, "PNG"), channels=1) == 0x80).all()


def test_one_bit_images_are_black_and_white() -> None:
    assert (decode(encoded(Image.new("1", (8, 8), 1), "PNG"), channels=1) == 255).all()


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), BLUE)]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert (decode(data) == RED).all()


def test_colours_become_luminance_for_a_grey_model() -> None:
    assert decode(encoded(Image.new("RGB", (8, 8), WHITE), "PNG"), channels=1).shape == (8, 8, 1)


def test_resizing_the_centre_alone_equals_resizing_all_and_cutting_the_centre_out() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 137, 3), np.uint8))
    resized = noise.resize((32 * 137 // 90, 32), Image.Resampling.BICUBIC)
    left, top = round((resized.width - 24) / 2), round((32 - 24) / 2)
    expected = np.asarray(resized.crop((left, top, left + 24, top + 24)))
    got = decode(encoded(noise, "PNG"), size=24, resize=32)
    assert np.abs(got.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (3, 7)])
def test_any_proportions_give_the_wanted_shape(size: tuple[int, int]) -> None:
    assert decode(encoded(Image.new("RGB", size, RED), "PNG"), size=24, resize=32).shape == (24, 24, 3)


def test_a_small_image_keeps_its_very_pixels() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    assert (decode(encoded(Image.fromarray(noise), "PNG"), channels=1)[:, :, 0] == noise).all()


@pytest.mark.parametrize("size", [(400, 300), (1_000, 999), (4_001, 2_999)])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_a_view_is_in_pixels_of_the_upright_image_at_its_own_size(
    size: tuple[int, int], orientation: int, fit: str
) -> None:
    """A JPEG is decoded at a fraction of its size, and some lie on their side."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    view = decode_view(encoded(Image.new("L", size), "JPEG", exif=exif, quality=5), spec(fit=fit), MAX_PIXELS)
    width, height = size if orientation < 5 else size[::-1]
    assert (view.width, view.height) == (width, height)
    shorter, longer = min(size), max(size)
    margin = (longer - shorter) / 2 if fit == "crop" else 0
    side, top = (margin, 0) if width > height else (0, margin)
    # The resized image has whole pixels, 8 along its shorter side, so the centre is found to within one of these.
    assert view.box == pytest.approx((side, top, width - side, height - top), abs=shorter / 8)
