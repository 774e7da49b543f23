"""What `digit-reader-tiny` is asked of a scene, and the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct

from tools.tiny.captions import NUMBER_WORDS, listed

__all__ = ["QUESTIONS", "Question", "asked"]

Labels = Sequence[int]


class Question(Struct, frozen=True, kw_only=True):
    """A question in several wordings (the first is the plainest) and how it is answered."""

    name: str
    wordings: tuple[str, ...]
    answer: Callable[[Labels], str]


QUESTIONS = (
    Question(
        name="read",
        wordings=("What is written?", "What does it say?", "Read the digits.", "Which digits are there?", "Read it."),
        answer=lambda labels: listed([str(label) for label in labels]),
    ),
    Question(
        name="count",
        wordings=("How many digits?", "How many digits are there?", "Count the digits.", "How many do you see?"),
        answer=lambda labels: NUMBER_WORDS[len(labels)],
    ),
    Question(
        name="left",
        wordings=("Which digit is on the left?", "What is the leftmost digit?", "Which digit comes first?"),
        answer=lambda labels: str(labels[0]),
    ),
    Question(
        name="right",
        wordings=("Which digit is on the right?", "What is the rightmost digit?", "Which digit comes last?"),
        answer=lambda labels: str(labels[-1]),
    ),
    Question(
        name="largest",
        wordings=("Which digit is the largest?", "What is the largest digit?", "Which number is the highest?"),
        answer=lambda labels: str(max(labels)),
    ),
)


def asked(labels: Labels, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Every question once, in any order and wording, with its answer for a scene of ``labels``."""
    order = rng.permutation(len(QUESTIONS))
    return [(str(rng.choice(QUESTIONS[at].wordings)), QUESTIONS[at].answer(labels)) for at in order]
