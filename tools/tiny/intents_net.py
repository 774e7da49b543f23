"""The BERT of `intents-tiny` and its training (Devlin et al. 2019), from scratch on messages drawn anew each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, processors
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from tools.tiny.bpe import train_tokenizer
from tools.tiny.phrasings import INTENTS, Phrasing, message_of
from tools.tiny.training import FitRecipe, fit, quiet

__all__ = ["BEGIN", "END", "INTENTS_FIT", "MASK", "PAD", "UNKNOWN", "intents_tokenizer", "train_intents"]

INTENTS_FIT = FitRecipe(steps=700, rows=64, learning_rate=1e-3, weight_decay=0.1, warmup=100)
PAD, UNKNOWN, BEGIN, END, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY = 1200
MAX_TOKENS = 96
# The share of tokens that are masked: no message is learned by heart, and no single word decides. This number, the
# dropout, the vocabulary and the steps were compared on a sixth of the training phrasings.
NOISE = 0.3

Batch = tuple[list[str], list[int]]


def train_intents(
    phrasings: Sequence[Phrasing], tokenizer: Tokenizer, recipe: FitRecipe, say: Callable[[str], None]
) -> Any:
    """Train from scratch and return the `BertForSequenceClassification`, ready to evaluate."""
    quiet()
    torch.manual_seed(recipe.seed)
    model = BertForSequenceClassification(_config(tokenizer))
    return fit(model, lambda batch: _loss(model, tokenizer, batch), _batches(phrasings, recipe), recipe, say)


def intents_tokenizer(phrasings: Sequence[Phrasing]) -> Tokenizer:
    """A tokenizer of the messages; each is put between [CLS] and [SEP]."""
    rng = np.random.default_rng(1)
    texts = [message_of(phrasing, rng) for phrasing in phrasings for _ in range(12)]
    tokenizer = train_tokenizer(texts, VOCABULARY, SPECIAL, lowercase=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}",
        pair=f"{BEGIN} $A {END} $B:1 {END}:1",
        special_tokens=[(BEGIN, SPECIAL.index(BEGIN)), (END, SPECIAL.index(END))],
    )
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def _config(tokenizer: Tokenizer) -> Any:
    return BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        hidden_dropout_prob=0.2,
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=SPECIAL.index(PAD),
        id2label=dict(enumerate(INTENTS)),
        label2id={intent: at for at, intent in enumerate(INTENTS)},
    )


def _batches(phrasings: Sequence[Phrasing], recipe: FitRecipe) -> Iterator[Batch]:
    """Messages and their intents, every intent equally often."""
    rng = np.random.default_rng(recipe.seed)
    by_intent = [[phrasing for phrasing in phrasings if phrasing.intent == intent] for intent in INTENTS]
    while True:
        labels = rng.integers(0, len(INTENTS), recipe.rows).tolist()
        chosen = [by_intent[label][rng.integers(len(by_intent[label]))] for label in labels]
        yield [message_of(phrasing, rng) for phrasing in chosen], labels


def _loss(model: Any, tokenizer: Tokenizer, batch: Batch) -> Any:
    texts, labels = batch
    inputs = _text_inputs(tokenizer, texts)
    ids = inputs["input_ids"]
    hidden = (torch.rand(ids.shape) < NOISE) & (ids >= len(SPECIAL))
    logits = model(**inputs | {"input_ids": ids.masked_fill(hidden, SPECIAL.index(MASK))}).logits
    return functional.cross_entropy(logits, torch.tensor(labels), label_smoothing=0.05)


def _text_inputs(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, Any]:
    """``input_ids`` and ``attention_mask``, int64 [texts, longest]."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [SPECIAL.index(PAD)] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != SPECIAL.index(PAD)).long()}
