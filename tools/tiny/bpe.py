"""The tokenizers of the tiny models, and the chat template of `dialogues-tiny`.

Byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2, Radford et al. 2019), so any text can be written. Chinese
characters and digits stand alone: with so few dialogues, longer pieces would be learned by heart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pipeline.tasks.prompts import load_chat_template
from schemas.messages import ChatMessage

__all__ = ["ASSISTANT", "CHAT_TEMPLATE", "END", "SPECIAL", "USER", "render", "special_id", "train_tokenizer"]

END, SYSTEM, USER, ASSISTANT = SPECIAL = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
# No end mark after the customer's turn: a plain prompt after `<|user|>` then is the start of a dialogue, and the model
# itself writes `<|assistant|>` next.
CHAT_TEMPLATE = Path(__file__).parent / "chat_template.jinja"


def train_tokenizer(
    texts: Iterable[str], vocabulary: int, special: Sequence[str] = SPECIAL, *, lowercase: bool = False
) -> Tokenizer:
    """Learn a tokenizer of at most ``vocabulary`` pieces; the ``special`` ones have the ids from 0 on."""
    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\p{Han}\p{Nd}]"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def special_id(piece: str) -> int:
    """The id of a special piece. Raises ValueError for another."""
    return SPECIAL.index(piece)


def render(messages: Sequence[ChatMessage], *, add_generation_prompt: bool = False) -> str:
    """The text of a conversation, by :data:`CHAT_TEMPLATE`."""
    text: str = _template().render(
        messages=[{"role": message.role, "content": message.content} for message in messages],
        add_generation_prompt=add_generation_prompt,
    )
    return text


@cache
def _template() -> Any:
    return load_chat_template(CHAT_TEMPLATE)
