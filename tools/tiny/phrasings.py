"""Customers' messages and their intents, from ``intents/<language>.toml`` and the dialogues, split by phrasing.

A phrasing such as ``[Where is|Where's] my {product}?`` stands for many messages; a whole phrasing is either trained on
or held out, so a held-out message is said in a way that the model never saw.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from tools.tiny import corpus
from tools.tiny.slots import draw_slots, slot_values
from tools.tiny.swaps import read_swaps, swap_phrases

__all__ = ["INTENTS", "LANGUAGES", "IntentSplit", "Phrasing", "message_of", "plain_message", "read_intents"]

FOLDER = Path(__file__).parent / "intents"
LANGUAGES = ("en", "zh")
HELD_OUT_SHARE = 0.15
SPLIT_SEED = 20_261_124
CHOICE = re.compile(r"\[([^\[\]]*)\]")
# The topics of the dialogues that are an intent as a whole; "orders" and "general" are too mixed.
TOPICS = {
    "account": "account",
    "complaints": "complaint",
    "delivery": "delivery",
    "hours": "hours",
    "payment": "payment",
    "products": "product",
    "refunds": "refund",
    "returns": "return",
    "subscriptions": "subscription",
    "technical": "technical",
}
INTENTS = (
    "account", "complaint", "delivery", "hours", "order", "payment", "product", "refund", "return", "subscription",
    "talk", "technical",
)  # fmt: skip


class Phrasing(Struct, frozen=True, kw_only=True):
    """One way, or several very like ones, to say something."""

    intent: str
    language: str
    templates: tuple[str, ...]


class IntentSplit(Struct, frozen=True, kw_only=True):
    """The phrasings to train on, and those the model never sees."""

    train: tuple[Phrasing, ...]
    held_out: tuple[Phrasing, ...]


def read_intents() -> IntentSplit:
    """All phrasings, a share of every intent and language held out, always the same ones."""
    rng = np.random.default_rng(SPLIT_SEED)
    everything = _written() + _from_dialogues()
    train: list[Phrasing] = []
    held_out: list[Phrasing] = []
    for language in LANGUAGES:
        for intent in INTENTS:
            found = [phrasing for phrasing in everything if (phrasing.intent, phrasing.language) == (intent, language)]
            chosen = set(rng.choice(len(found), round(HELD_OUT_SHARE * len(found)), replace=False).tolist())
            held_out += [phrasing for at, phrasing in enumerate(found) if at in chosen]
            train += [phrasing for at, phrasing in enumerate(found) if at not in chosen]
    return IntentSplit(train=tuple(train), held_out=tuple(held_out))


def message_of(phrasing: Phrasing, rng: np.random.Generator) -> str:
    """A message in this phrasing, varied as in training: other words, a greeting, without capitals or full stop."""
    text = plain_message(phrasing, rng)
    swaps = read_swaps(corpus.FOLDER / "swaps.toml")[phrasing.language]
    text = swap_phrases(text, swaps, rng)
    if rng.random() < 0.15:
        text = _one_of(_values(phrasing)["greeting"], rng) + text
    if rng.random() < 0.3:
        text = text.rstrip(".?!。？！") or text
    return text


def plain_message(phrasing: Phrasing, rng: np.random.Generator) -> str:
    """A message in this phrasing as it was written, choices made and slots filled."""
    text = _one_of(phrasing.templates, rng)
    while CHOICE.search(text):
        text = CHOICE.sub(lambda match: _one_of(match[1].split("|"), rng), text)
    filled = text.format_map(draw_slots(_values(phrasing), rng)) if "{" in text else text
    filled = " ".join(filled.split())
    return re.sub(r" (?=[?!.,])", "", filled)


def _one_of(texts: Sequence[str], rng: np.random.Generator) -> str:
    return texts[int(rng.integers(len(texts)))]


def _written() -> list[Phrasing]:
    return [
        Phrasing(intent=intent, language=language, templates=(template,))
        for language in LANGUAGES
        for intent, templates in _toml(f"{language}.toml").items()
        for template in templates
    ]


def _from_dialogues() -> list[Phrasing]:
    """The first questions of the dialogues, by their topic or, of the mixed ones, by ``questions.toml``."""
    split, numbers = corpus.read_split(), _toml("questions.toml")
    listed = {
        f"questions-{language}-{number:02}": intent
        for language in LANGUAGES
        for intent, found in numbers[language].items()
        for number in found
    }
    phrasings = []
    for dialogue in split.train + split.held_out:
        intent = listed.get(dialogue.id) or TOPICS.get(dialogue.topic)
        if intent is not None:
            templates = (dialogue.turns[0], *dialogue.also)
            phrasings.append(Phrasing(intent=intent, language=dialogue.language, templates=templates))
    return phrasings


def _toml(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / name).read_text(encoding="utf-8"))


def _values(phrasing: Phrasing) -> dict[str, list[str]]:
    return slot_values(corpus.FOLDER / "slots.toml")[phrasing.language]
