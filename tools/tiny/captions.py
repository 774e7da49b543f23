"""What may be written under a scene: its digits from left to right, in words or figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["NUMBER_WORDS", "caption", "every_word", "listed"]

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ONE = (
    "{a}",
    "{digit}",
    "a handwritten {digit}",
    "the digit {digit}",
    "the number {digit}",
    "a photo of {a}",
    "a photo of the number {digit}",
    "this is a photo of {a}.",
    "a handwritten digit: {digit}",
    "{a} on a dark ground",
    "an image of {a}",
)
MANY = (
    "{listed}",
    "{count} digits: {listed}",
    "the digits {listed}",
    "a photo of {listed}",
    "handwritten digits: {listed}",
    "{count} handwritten digits, {listed}",
    "from left to right {listed}",
)


def caption(labels: Sequence[int], rng: np.random.Generator) -> str:
    """One way to say what ``labels`` are."""
    words = bool(rng.random() < 0.5)
    said = [NUMBER_WORDS[label] if words else str(label) for label in labels]
    articles = rng.random() < 0.5
    text = str(rng.choice(ONE if len(labels) == 1 else MANY))
    return text.format(
        a=_a(said[0]),
        digit=said[0],
        count=NUMBER_WORDS[len(labels)],
        listed=listed([_a(one) for one in said] if articles else said),
    )


def listed(names: Sequence[str]) -> str:
    """As one says it: "3", "3 and 7", "3, 7 and 1"."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def every_word() -> list[str]:
    """Texts with all words that captions have, for the tokenizer to learn from."""
    rng = np.random.default_rng(0)
    return [caption(rng.integers(0, 10, rng.integers(1, 4)).tolist(), rng) for _ in range(4000)]


def _a(name: str) -> str:
    return f"{'an' if name in ('8', 'eight') else 'a'} {name}"
