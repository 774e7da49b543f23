"""`digit-clip-tiny`: says how well texts fit a scene of digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from pipeline.factory.samples import Sample
from pipeline.models.card import VariantName
from pipeline.models.store import ServedModel
from schemas.messages import ClassificationOutput, ImageInput
from tools.tiny.captions import NUMBER_WORDS, caption
from tools.tiny.clip_net import BEGIN, CLIP_FIT, CLIP_SCENES, END, PAD, clip_tokenizer, train_clip
from tools.tiny.digits_data import read_digits
from tools.tiny.folders import save_model, save_preprocessor, save_tokenizer
from tools.tiny.made import TinyModel
from tools.tiny.scenes import Scene, held_in_scenes, held_out_scenes
from tools.tiny.served import answers_of, png

__all__ = ["CLIP"]

HELD_OUT_SEED, CALIBRATION_SEED = 3, 4
FIGURES = "0123456789"


def _train(folder: Path, say: Callable[[str], None]) -> None:
    split, tokenizer = read_digits(), clip_tokenizer()
    save_model(train_clip((split.pixels, split.labels), tokenizer, CLIP_FIT, say), folder)
    save_tokenizer(tokenizer, folder, pad_token=PAD, bos_token=BEGIN, eos_token=END)
    save_preprocessor("CLIPImageProcessor", folder)


def _measure(model: ServedModel, variant: VariantName) -> dict[str, float]:
    """Zero-shot among ten names: each held-out digit in a scene of its own, and as the 8 x 8 pixels that it is."""
    held_out = read_digits().held_out
    scenes = [(png(scene.pixels), scene.labels[0]) for scene in _lone()]
    plain = [(held_out.png(at), int(held_out.labels[at])) for at in range(len(held_out))]
    return {
        "words_accuracy": _accuracy(model, variant, scenes, NUMBER_WORDS),
        "figures_accuracy": _accuracy(model, variant, scenes, FIGURES),
        "plain_accuracy": _accuracy(model, variant, plain, NUMBER_WORDS),
    }


def _accuracy(model: ServedModel, variant: VariantName, images: list[tuple[bytes, int]], names: Sequence[str]) -> float:
    asked = [ImageInput(data=image, candidate_labels=tuple(names), top_k=1) for image, _ in images]
    said = [it.labels[0].label for it in answers_of(model, variant, asked) if isinstance(it, ClassificationOutput)]
    return round(float(np.mean([one == names[label] for one, (_, label) in zip(said, images, strict=True)])), 4)


def _lone() -> list[Scene]:
    return held_out_scenes(replace(CLIP_SCENES, counts=(1, 1)), HELD_OUT_SEED)


def _samples(scenes: list[Scene]) -> list[Sample]:
    """Images for the one tower, captions for the other."""
    rng = np.random.default_rng(CALIBRATION_SEED)
    return [Sample(image=png(it.pixels)) for it in scenes] + [Sample(text=caption(it.labels, rng)) for it in scenes]


CLIP = TinyModel(
    name="digit-clip-tiny",
    description="Tells which of the texts in a request fits a scene of handwritten digits: a small CLIP of our own.",
    source="python -m tools.tiny, on Optical Recognition of Handwritten Digits (UCI, through scikit-learn)",
    license="Apache-2.0; trained on data under CC BY 4.0",
    train=_train,
    calibration=lambda: _samples(held_in_scenes(CLIP_SCENES, 128, CALIBRATION_SEED)),
    evaluation=lambda: _samples(held_out_scenes(CLIP_SCENES, HELD_OUT_SEED)),
    measure=_measure,
    facts=lambda: {"held_out_digits": float(len(_lone()))},
)
