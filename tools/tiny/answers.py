"""Are the answers answers? Greedy decoding of held-out questions, and simple facts about what comes out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np
from msgspec import Struct

from pipeline.models.card import VariantName
from pipeline.models.store import ServedModel
from schemas.messages import ChatMessage, TextInput, TextOutput
from tools.tiny.served import answers_of

__all__ = ["Answer", "answer_figures", "answers_to", "copied_share", "equal_share", "known_share"]

MAX_TOKENS = 96
REPEATED_WORDS = 4
HAN = re.compile(r"[\u4e00-\u9fff]")
ASK_ORDER = ("When will order {} arrive?", "订单{}什么时候到？", "Cancel order {}.", "请帮我取消订单{}，不想要了。")
ALIKE = 0.6


class Answer(Struct, frozen=True, kw_only=True):
    """A question and the model's answer to it; ``ended`` when the model closed it within the limit."""

    question: str
    text: str
    ended: bool


def answers_to(model: ServedModel, variant: VariantName, questions: Sequence[str]) -> list[Answer]:
    """The likeliest answer to each question, as the model serves it. Raises ModelError."""
    asked = [
        TextInput(messages=(ChatMessage(role="user", content=question),), max_tokens=MAX_TOKENS, temperature=0.0)
        for question in questions
    ]
    given = [output for output in answers_of(model, variant, asked) if isinstance(output, TextOutput)]
    return [
        Answer(question=question, text=output.text, ended=output.finish_reason == "stop")
        for question, output in zip(questions, given, strict=True)
    ]


def answer_figures(answers: Sequence[Answer]) -> dict[str, float]:
    """Shares of the answers.

    Returns:
        ``answers_ended``: closed by the model itself; ``answers_in_language``: Chinese to Chinese, English to English;
        ``answers_without_loops``: no stretch of words (Chinese: characters) comes four times in a row.
    """
    return {
        "answers_ended": _share([a.ended for a in answers]),
        "answers_in_language": _share([bool(HAN.search(a.question)) == bool(HAN.search(a.text)) for a in answers]),
        "answers_without_loops": _share([not _loops(a.text) for a in answers]),
    }


def equal_share(answers: Sequence[Answer], others: Sequence[Answer]) -> float:
    """The share of answers that are to the letter those of ``others``."""
    return _share([one.text == other.text for one, other in zip(answers, others, strict=True)])


def known_share(answers: Sequence[Answer], written: Sequence[str]) -> float:
    """The share of answers that are mostly as ``written``: a similarity (difflib's ratio) over 0.6."""
    ratios = [SequenceMatcher(None, a.text, b).ratio() for a, b in zip(answers, written, strict=True)]
    return _share([ratio > ALIKE for ratio in ratios])


def copied_share(model: ServedModel, variant: VariantName, rng: np.random.Generator, count: int) -> float:
    """The share of ``count`` order numbers, new to the model, that come back right in the answer."""
    numbers = [str(rng.integers(10_000, 100_000)) for _ in range(count)]
    asked = [ASK_ORDER[i % len(ASK_ORDER)].format(number) for i, number in enumerate(numbers)]
    return _share([number in it.text for number, it in zip(numbers, answers_to(model, variant, asked), strict=True)])


def _share(facts: Sequence[bool]) -> float:
    return round(sum(facts) / len(facts), 4) if facts else 0.0


def _loops(text: str) -> bool:
    words = " ".join(HAN.sub(lambda match: f" {match[0]} ", text).split())
    return re.search(rf"(\S+(?: \S+){{0,7}})(?: \1){{{REPEATED_WORDS - 1}}}", words) is not None
