"""`digit-reader-tiny`: answers questions about a scene of digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.factory.samples import Sample
from pipeline.models.card import VariantName
from pipeline.models.store import ServedModel
from schemas.messages import ImageInput, TextOutput
from tools.tiny.digits_data import read_digits
from tools.tiny.folders import save_model, save_preprocessor, save_tokenizer
from tools.tiny.made import TinyModel
from tools.tiny.questions import QUESTIONS, Question
from tools.tiny.reader_net import END, PAD, READER_FIT, READER_SCENES, reader_tokenizer, train_reader
from tools.tiny.scenes import Scene, held_in_scenes, held_out_scenes
from tools.tiny.served import answers_of, png

__all__ = ["READER"]

HELD_OUT_SEED, CALIBRATION_SEED = 3, 4
TEMPLATE = Path(__file__).parent / "reader_template.jinja"
MAX_TOKENS = 16


def _train(folder: Path, say: Callable[[str], None]) -> None:
    split, tokenizer = read_digits(), reader_tokenizer()
    save_model(train_reader((split.pixels, split.labels), tokenizer, READER_FIT, say), folder)
    template = TEMPLATE.read_text(encoding="utf-8")
    save_tokenizer(tokenizer, folder, chat_template=template, pad_token=PAD, bos_token=END, eos_token=END)
    save_preprocessor("CLIPImageProcessor", folder)


def _measure(model: ServedModel, variant: VariantName) -> dict[str, float]:
    """The share of answers that are right to the letter, by question and of all."""
    scenes = _held_out()
    by_question = {question.name: _accuracy(model, variant, scenes, question) for question in QUESTIONS}
    whole = round(float(np.mean(list(by_question.values()))), 4)
    return {"accuracy": whole} | {f"{name}_exact": value for name, value in by_question.items()}


def _accuracy(model: ServedModel, variant: VariantName, scenes: list[Scene], question: Question) -> float:
    asked = [
        ImageInput(data=png(scene.pixels), prompt=question.wordings[0], max_tokens=MAX_TOKENS, temperature=0.0)
        for scene in scenes
    ]
    said = [answer.text for answer in answers_of(model, variant, asked) if isinstance(answer, TextOutput)]
    right = [text == question.answer(scene.labels) for text, scene in zip(said, scenes, strict=True)]
    return round(float(np.mean(right)), 4)


def _held_out() -> list[Scene]:
    return held_out_scenes(READER_SCENES, HELD_OUT_SEED)


def _samples(scenes: list[Scene]) -> list[Sample]:
    """The questions in turn."""
    asked = [(scene, QUESTIONS[at % len(QUESTIONS)]) for at, scene in enumerate(scenes)]
    return [
        Sample(image=png(scene.pixels), text=question.wordings[0], answer=question.answer(scene.labels))
        for scene, question in asked
    ]


READER = TinyModel(
    name="digit-reader-tiny",
    description="Answers questions about handwritten digits in scenes of 48 x 48 pixels: a small LLaVA of our own.",
    source="python -m tools.tiny, on Optical Recognition of Handwritten Digits (UCI, through scikit-learn)",
    license="Apache-2.0; trained on data under CC BY 4.0",
    train=_train,
    calibration=lambda: _samples(held_in_scenes(READER_SCENES, 128, CALIBRATION_SEED)),
    evaluation=lambda: _samples(_held_out()),
    measure=_measure,
    facts=lambda: {"held_out_scenes": float(len(_held_out())), "questions": float(len(QUESTIONS))},
)
