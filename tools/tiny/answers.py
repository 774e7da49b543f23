"""Are the answers answers? Greedy decoding of held-out questions, and simple facts about what comes out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct
from tokenizers import Tokenizer

from pipeline.models.text_gate import greedy
from pipeline.runtime.session import DecoderSession
from schemas.messages import ChatMessage
from tools.tiny.bpe import END, render, special_id

__all__ = ["Answer", "answer", "answer_figures"]

MAX_TOKENS = 96
REPEATED_WORDS = 4
HAN = re.compile(r"[\u4e00-\u9fff]")
ORDER = re.compile(r"(?<!\d)\d{5}(?!\d)")


class Answer(Struct, frozen=True, kw_only=True):
    """A question and the model's answer to it; ``ended`` when the model closed it within the limit."""

    question: str
    text: str
    ended: bool


def answer(decoder: DecoderSession, tokenizer: Tokenizer, question: str) -> Answer:
    """The likeliest answer to one question."""
    prompt = tokenizer.encode(render([ChatMessage(role="user", content=question)], add_generation_prompt=True)).ids
    end = special_id(END)
    ids = greedy(decoder, prompt, MAX_TOKENS, lambda token: token == end)
    return Answer(question=question, text=tokenizer.decode(ids), ended=len(ids) < MAX_TOKENS)


def answer_figures(answers: Sequence[Answer]) -> dict[str, float]:
    """Shares of the answers.

    Returns:
        ``answers_ended``: closed by the model itself; ``answers_in_language``: Chinese to Chinese, English to English;
        ``answers_without_loops``: no stretch of words (Chinese: characters) comes four times in a row;
        ``order_numbers_copied``: of the answers that name an order when the question did, those that name it right.
    """
    named = [(ORDER.findall(a.question), ORDER.findall(a.text)) for a in answers]
    copies = [asked[0] in given for asked, given in named if asked and given]
    return {
        "answers_ended": _share([a.ended for a in answers]),
        "answers_in_language": _share([bool(HAN.search(a.question)) == bool(HAN.search(a.text)) for a in answers]),
        "answers_without_loops": _share([not _loops(a.text) for a in answers]),
        "order_numbers_copied": _share(copies),
        "order_numbers_named": float(len(copies)),
        "answers": float(len(answers)),
    }


def _share(facts: Sequence[bool]) -> float:
    return round(sum(facts) / len(facts), 4) if facts else 0.0


def _loops(text: str) -> bool:
    words = " ".join(HAN.sub(lambda match: f" {match[0]} ", text).split())
    return re.search(rf"(\S+(?: \S+){{0,7}})(?: \1){{{REPEATED_WORDS - 1}}}", words) is not None
