"""`intents-tiny`: tells what a customer wants, in English and Chinese."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipeline.factory.samples import Sample
from pipeline.models.card import VariantName
from pipeline.models.store import ServedModel
from schemas.messages import ClassificationOutput, TextInput
from tools.tiny.folders import save_model, save_tokenizer
from tools.tiny.intents_net import BEGIN, END, INTENTS_FIT, MASK, PAD, UNKNOWN, intents_tokenizer, train_intents
from tools.tiny.made import TinyModel
from tools.tiny.phrasings import LANGUAGES, Phrasing, message_of, plain_message, read_intents
from tools.tiny.served import answers_of

__all__ = ["INTENT"]

HELD_OUT_SEED, CALIBRATION_SEED = 5, 6
CALIBRATION = 256


def _train(folder: Path, say: Callable[[str], None]) -> None:
    phrasings = read_intents().train
    tokenizer = intents_tokenizer(phrasings)
    save_model(train_intents(phrasings, tokenizer, INTENTS_FIT, say), folder)
    pieces = {"pad_token": PAD, "unk_token": UNKNOWN, "cls_token": BEGIN, "sep_token": END, "mask_token": MASK}
    save_tokenizer(tokenizer, folder, **pieces)


def _measure(model: ServedModel, variant: VariantName) -> dict[str, float]:
    """The share of held-out phrasings whose likeliest intent is right, one message of each."""
    messages = _messages(read_intents().held_out)
    answers = answers_of(model, variant, [TextInput(prompt=text, top_k=1) for text, _ in messages])
    said = [answer.labels[0].label for answer in answers if isinstance(answer, ClassificationOutput)]
    right = np.array([one == phrasing.intent for one, (_, phrasing) in zip(said, messages, strict=True)])
    figures = {"accuracy": float(right.mean())}
    for language in LANGUAGES:
        chosen = [phrasing.language == language for _, phrasing in messages]
        figures[f"{language}_share_right"] = float(right[chosen].mean())
    return {name: round(value, 4) for name, value in figures.items()}


def _messages(phrasings: Sequence[Phrasing]) -> list[tuple[str, Phrasing]]:
    rng = np.random.default_rng(HELD_OUT_SEED)
    return [(plain_message(phrasing, rng), phrasing) for phrasing in phrasings]


def _calibration() -> list[Sample]:
    rng = np.random.default_rng(CALIBRATION_SEED)
    phrasings = read_intents().train
    return [Sample(text=message_of(phrasings[at], rng)) for at in rng.integers(0, len(phrasings), CALIBRATION)]


def _facts() -> dict[str, float]:
    split = read_intents()
    return {"training_phrasings": float(len(split.train)), "held_out_phrasings": float(len(split.held_out))}


INTENT = TinyModel(
    name="intents-tiny",
    description="Tells what a customer wants, in English and Chinese: a small BERT of our own.",
    source="python -m tools.tiny, on messages written for this project",
    license="Apache-2.0",
    train=_train,
    calibration=_calibration,
    evaluation=lambda: [Sample(text=text, answer=it.intent) for text, it in _messages(read_intents().held_out)],
    measure=_measure,
    facts=_facts,
)
