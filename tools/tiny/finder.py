"""`digit-finder-tiny`: finds the digits of a scene and says which they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from pipeline.factory.gates.detection import matched_f1
from pipeline.factory.samples import Sample
from pipeline.models.card import VariantName
from pipeline.models.store import ServedModel
from schemas.messages import Box, DetectedObject, DetectionOutput, ImageInput
from tools.tiny.digits_data import read_digits
from tools.tiny.finder_net import FINDER_FIT, FINDER_SCENES, train_finder
from tools.tiny.folders import save_model, save_preprocessor
from tools.tiny.made import TinyModel
from tools.tiny.scenes import SIZE, Scene, held_in_scenes, held_out_scenes
from tools.tiny.served import answers_of, png

__all__ = ["FINDER"]

HELD_OUT_SEED, CALIBRATION_SEED = 3, 4


def _train(folder: Path, say: Callable[[str], None]) -> None:
    split = read_digits()
    save_model(train_finder((split.pixels, split.labels), FINDER_FIT, say), folder)
    save_preprocessor("DetrImageProcessor", folder)


def _measure(model: ServedModel, variant: VariantName) -> dict[str, float]:
    """Objects count as found where class and box (intersection over union of 0.5 or more) are right."""
    scenes = _held_out()
    right = [_objects(scene) for scene in scenes]
    asked = [ImageInput(data=png(scene.pixels)) for scene in scenes]
    found = [answer.objects for answer in answers_of(model, variant, asked) if isinstance(answer, DetectionOutput)]
    there, said = sum(map(len, right)), sum(map(len, found))
    f1 = matched_f1(right, found)
    hits = round(f1 * (there + said) / 2)
    return {"f1": round(f1, 4), "recall": round(hits / there, 4), "precision": round(hits / said, 4)}


def _samples(scenes: Sequence[Scene]) -> list[Sample]:
    return [Sample(image=png(scene.pixels), answer=_answer(scene)) for scene in scenes]


def _answer(scene: Scene) -> str:
    objects = [
        {"label": it.label, "box": [it.box.xmin, it.box.ymin, it.box.xmax, it.box.ymax]} for it in _objects(scene)
    ]
    return msgspec.json.encode(objects).decode()


def _objects(scene: Scene) -> list[DetectedObject]:
    return [
        DetectedObject(
            label=str(label),
            score=1.0,
            box=Box(xmin=x - wide / 2, ymin=y - high / 2, xmax=x + wide / 2, ymax=y + high / 2),
        )
        for label, (x, y, wide, high) in zip(scene.labels, (scene.boxes * SIZE).tolist(), strict=True)
    ]


def _held_out() -> list[Scene]:
    return held_out_scenes(FINDER_SCENES, HELD_OUT_SEED)


def _facts() -> dict[str, float]:
    scenes = _held_out()
    return {"held_out_scenes": float(len(scenes)), "held_out_digits": float(sum(len(it.labels) for it in scenes))}


FINDER = TinyModel(
    name="digit-finder-tiny",
    description="Finds handwritten digits in scenes of 48 x 48 pixels: a small DETR of our own.",
    source="python -m tools.tiny, on Optical Recognition of Handwritten Digits (UCI, through scikit-learn)",
    license="Apache-2.0; trained on data under CC BY 4.0",
    train=_train,
    calibration=lambda: _samples(held_in_scenes(FINDER_SCENES, 128, CALIBRATION_SEED)),
    evaluation=lambda: _samples(_held_out()),
    measure=_measure,
    facts=_facts,
)
