"""The demo's photos: those that scikit-learn and scikit-image ship, and crops of them, always the same ones.

``accepted`` holds the ImageNet classes that a person would call right for the whole photo. Photos of what ImageNet has
no class for (an astronaut's portrait, coins) are shown but not scored, and so are crops: nobody knows what is on them.
"""

from __future__ import annotations

import importlib.util
import io
import random
from pathlib import Path

from PIL import Image

from console.samples import Sample
from pipeline.errors import MillraceError, install_extra

__all__ = ["photo_samples"]

PHOTO_MODEL = "efficientnet-lite0"
PHOTOS: dict[str, tuple[str, frozenset[str]]] = {
    "chelsea.png": ("skimage/data", frozenset({"tabby", "tabby cat", "tiger cat", "egyptian cat"})),
    "china.jpg": ("sklearn/datasets/images", frozenset({"palace", "monastery", "bell cote", "castle"})),
    "flower.jpg": ("sklearn/datasets/images", frozenset({"daisy"})),
    "coffee.png": ("skimage/data", frozenset({"espresso", "cup", "coffee mug"})),
    "rocket.jpg": ("skimage/data", frozenset({"missile", "projectile", "space shuttle"})),
    "motorcycle_left.png": (
        "skimage/data",
        frozenset({"moped", "motor scooter", "scooter", "disk brake"}),
    ),
    "astronaut.png": ("skimage/data", frozenset()),
    "coins.png": ("skimage/data", frozenset()),
}
SEED = 20_261_124
CROP_SHARE = (0.5, 0.9)
JPEG_QUALITY = 90
SHOWN_EVERY = 31


def photo_samples(crops: int) -> list[Sample]:
    """The whole photos and ``crops`` crops of them. Raises MillraceError when the packages they come in are away."""
    files = {name: _file(package, name) for name, (package, _) in PHOTOS.items()}
    whole = [_sample(name, file.read_bytes(), accepted=PHOTOS[name][1], shown=True) for name, file in files.items()]
    return whole + _crops(files, crops)


def _file(folder: str, name: str) -> Path:
    package, *rest = folder.split("/")
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    file = Path(next(iter(places)), *rest, name) if places else None
    if file is None or not file.is_file():
        raise MillraceError(
            f"the demo's photo {name} comes with scikit-learn and scikit-image, which are not installed whole: "
            f"{install_extra('demo')}. `millrace demo --tiny` needs no photos."
        )
    return file


def _crops(files: dict[str, Path], count: int) -> list[Sample]:
    rng = random.Random(SEED)  # noqa: S311 (the same crops every time)
    images = []
    for name, file in files.items():
        with Image.open(file) as opened:
            images.append((Path(name).stem, opened.convert("RGB")))
    samples = []
    for number in range(count):
        stem, image = images[number % len(images)]
        data = _crop(image, rng)
        samples.append(_sample(f"{stem}-{number:03}.jpg", data, shown=number % SHOWN_EVERY == 0))
    return samples


def _crop(image: Image.Image, rng: random.Random) -> bytes:
    share = rng.uniform(*CROP_SHARE)
    width, height = round(image.width * share), round(image.height * share)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    data = io.BytesIO()
    image.crop((left, top, left + width, top + height)).save(data, "JPEG", quality=JPEG_QUALITY)
    return data.getvalue()


def _sample(name: str, value: bytes, *, accepted: frozenset[str] = frozenset(), shown: bool) -> Sample:
    return Sample(
        name=name,
        kind="photos",
        task="image-classification",
        model=PHOTO_MODEL,
        value=value,
        accepted=accepted,
        shown=shown,
    )
