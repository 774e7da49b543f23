"""`dialogues-tiny`: customer service in English and Chinese."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, processors

from pipeline.factory.samples import Sample
from pipeline.models.card import VariantName
from pipeline.models.store import ServedModel
from schemas.messages import ChatMessage
from tools.tiny.answers import Answer, answer_figures, answers_to, copied_share, equal_share, known_share
from tools.tiny.bpe import CHAT_TEMPLATE, END, USER, special_id, train_tokenizer
from tools.tiny.corpus import Dialogue, draw, messages_of, read_split
from tools.tiny.folders import save_model, save_tokenizer
from tools.tiny.gpt2 import GPT2_RECIPE, train_gpt2
from tools.tiny.made import FULL, SHIPPED, TinyModel
from tools.tiny.scoring import perplexities

__all__ = ["DIALOGUES"]

TOKENIZER_SEED, HELD_OUT_SEED = 1, 2
# The factory reads as many samples of a decoder.
SAMPLES = 16
ORDERS = 100


def _train(folder: Path, say: Callable[[str], None]) -> None:
    dialogues = read_split().train
    tokenizer = _tokenizer(dialogues, GPT2_RECIPE.vocabulary)
    save_model(train_gpt2(dialogues, tokenizer, GPT2_RECIPE, say), folder)
    _begin_with(USER, tokenizer)
    save_tokenizer(tokenizer, folder, chat_template=CHAT_TEMPLATE.read_text(encoding="utf-8"), eos_token=END)


def _tokenizer(dialogues: Sequence[Dialogue], vocabulary: int) -> Tokenizer:
    rng = np.random.default_rng(TOKENIZER_SEED)
    texts = [message.content for dialogue in dialogues for message in draw(dialogue, rng)]
    return train_tokenizer(texts, vocabulary)


def _begin_with(piece: str, tokenizer: Tokenizer) -> None:
    """A plain text is what a customer says. The dialogues that are trained on have their marks already."""
    tokenizer.post_processor = processors.TemplateProcessing(f"{piece} $0", special_tokens=[(piece, special_id(piece))])


def _measure(model: ServedModel, variant: VariantName) -> dict[str, float]:
    """How well held-out dialogues are foreseen, and what is answered to their first questions and to those it knows."""
    figures = perplexities(model, variant, _conversations(read_split().held_out))
    ours = _held_out_answers(model, variant)
    figures |= answer_figures(ours)
    if variant != FULL and FULL in model.card.variants:
        figures["answers_equal_to_fp32"] = equal_share(ours, _held_out_answers(model, FULL))
    taught = _conversations(read_split().train)
    answers = answers_to(model, variant, [messages[0].content for messages in taught])
    return figures | {
        "known_questions_answered": known_share(answers, [messages[1].content for messages in taught]),
        "order_numbers_copied": copied_share(model, variant, np.random.default_rng(HELD_OUT_SEED), ORDERS),
    }


def _held_out_answers(model: ServedModel, variant: VariantName) -> list[Answer]:
    held_out = _conversations(read_split().held_out)
    return answers_to(model, variant, [messages[0].content for messages in held_out])


def _conversations(dialogues: Sequence[Dialogue]) -> list[list[ChatMessage]]:
    rng = np.random.default_rng(HELD_OUT_SEED)
    return [messages_of(dialogue, rng) for dialogue in dialogues]


def _samples(dialogues: Sequence[Dialogue]) -> list[Sample]:
    """The first question and answer of some, of all topics."""
    conversations = _conversations(dialogues)
    chosen = [conversations[at] for at in np.linspace(0, len(conversations) - 1, SAMPLES).astype(int)]
    return [Sample(messages=(messages[0],), answer=messages[1].content) for messages in chosen]


def _page(model: ServedModel) -> dict[str, Any]:
    return {"answers": _held_out_answers(model, SHIPPED)}


def _facts() -> dict[str, float]:
    split = read_split()
    return {"training_dialogues": float(len(split.train)), "held_out_dialogues": float(len(split.held_out))}


DIALOGUES = TinyModel(
    name="dialogues-tiny",
    description="Customer service in English and Chinese: a small GPT-2 of our own.",
    source="python -m tools.tiny, on dialogues written for Millrace",
    license="Apache-2.0",
    train=_train,
    calibration=lambda: _samples(read_split().train),
    evaluation=lambda: _samples(read_split().held_out),
    measure=_measure,
    facts=_facts,
    page=_page,
)
