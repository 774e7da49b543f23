"""`digits-tiny`: names the digit in an image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from pipeline.factory.samples import Sample
from pipeline.models.card import VariantName
from pipeline.models.heldout import HELD_OUT_FILE, HeldOutDigits
from pipeline.models.store import ServedModel
from schemas.messages import ClassificationOutput, ImageInput
from tools.tiny.digits_data import read_digits
from tools.tiny.digits_graph import build_digits_graph
from tools.tiny.digits_net import DIGITS_RECIPE, train_digits
from tools.tiny.made import TinyModel
from tools.tiny.served import answers_of, png

__all__ = ["DIGITS"]

GRAPH = "model.onnx"
SIDE = 8
CALIBRATION = 512


def _train(folder: Path, say: Callable[[str], None]) -> None:
    """Leaves the ONNX file, what Hugging Face would say of its images and classes, and the held-out digits shipped."""
    split = read_digits()
    _write_held_out(split.held_out)
    onnx.save(build_digits_graph(train_digits(split, DIGITS_RECIPE, say)), folder / GRAPH)
    images = {
        "size": {"height": SIDE, "width": SIDE},
        "do_center_crop": True,
        "resample": 4,  # Pillow's number of a box: an image many times as large is averaged
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": False,
    }
    classes = {"id2label": {str(digit): str(digit) for digit in range(10)}}
    for name, described in (("preprocessor_config.json", images), ("config.json", classes)):
        (folder / name).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def _write_held_out(held_out: HeldOutDigits) -> None:
    HELD_OUT_FILE.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(HELD_OUT_FILE, pixels=held_out.pixels, labels=held_out.labels)


def _measure(model: ServedModel, variant: VariantName) -> dict[str, float]:
    """The share of held-out digits whose likeliest class is right."""
    held_out = read_digits().held_out
    asked = [ImageInput(data=held_out.png(at), top_k=1) for at in range(len(held_out))]
    said = [it.labels[0].label for it in answers_of(model, variant, asked) if isinstance(it, ClassificationOutput)]
    right = [one == str(label) for one, label in zip(said, held_out.labels, strict=True)]
    return {"accuracy": round(float(np.mean(right)), 4)}


def _calibration() -> list[Sample]:
    return [Sample(image=png(pixels)) for pixels in read_digits().pixels[:CALIBRATION]]


def _evaluation() -> list[Sample]:
    held_out = read_digits().held_out
    return [Sample(image=held_out.png(at), answer=str(held_out.labels[at])) for at in range(len(held_out))]


def _facts() -> dict[str, float]:
    split = read_digits()
    return {"training_digits": float(len(split.labels)), "held_out_digits": float(len(split.held_out))}


DIGITS = TinyModel(
    name="digits-tiny",
    description="Handwritten digits of 8 x 8 pixels: a small convolutional net of our own.",
    source="python -m tools.tiny, on Optical Recognition of Handwritten Digits (UCI, through scikit-learn)",
    license="Apache-2.0; trained on data under CC BY 4.0",
    train=_train,
    graph=GRAPH,
    calibration=_calibration,
    evaluation=_evaluation,
    measure=_measure,
    facts=_facts,
    ships=("int8", "fp32"),
)
