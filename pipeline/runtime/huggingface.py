"""The tokenizers library of Hugging Face, behind :class:`pipeline.runtime.session.TextCodec`.

It is native code that nobody can interrupt, and a ``tokenizer.json`` may have it replace each character by many, over
and over. So one that can make a text too much longer is refused by what it says, and by a trial one that is slow or
gives too many tokens. What a single text does to a regular expression in it is not bounded.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from math import prod
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
from tokenizers import Tokenizer

from pipeline.errors import ModelError

__all__ = ["HuggingFaceTokenizer", "open_tokenizer", "read_tokenizer"]

# SentencePiece's own table of NFKC makes 18 characters of one; doubling six times is 64.
MAX_GROWTH = 64
# UTF-8 has 4 bytes at most, and no tokenizer has more tokens than bytes.
MAX_TOKENS_PER_CHAR = 8
TRIAL = 20 * 'Hello, {"world": [1.5, -20]}!\n\t Straße 你好 мир 😀 don\'t  ' + 2_000 * "a"
TRIAL_SECONDS = 5.0
"""A thousand times what it takes."""


class HuggingFaceTokenizer:
    """A ``tokenizer.json``. Safe to call from several threads; it releases the GIL."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder().values()
        self.special_tokens = tuple(token.content for token in added if token.special)

    @cached_property
    def _plain(self) -> Tokenizer:
        """A second one, which sees no special token in a text. Made when an encoder first asks for it."""
        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.encode_special_tokens = True  # the library's name: encode them like any text
        return tokenizer

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; special tokens written in it are recognised, none are added."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_whole(self, text: str) -> list[int]:
        """Token ids of ``text`` with what the post-processor adds; special tokens written in it are plain text."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=True).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids`` without special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


def open_tokenizer(path: Path) -> HuggingFaceTokenizer:
    """As :func:`read_tokenizer`, for serving."""
    return HuggingFaceTokenizer(read_tokenizer(path))


def read_tokenizer(path: Path) -> Tokenizer:
    """Load a ``tokenizer.json``, without what it says of cutting and padding.

    Raises:
        ModelError: it is missing or damaged, or makes too much of a text.
    """
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # The library raises bare Exception.
        raise ModelError(f"{path}: the tokenizer cannot be read: {error}") from error
    # What is too long is refused by us, with its length; it must not be cut in silence.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if (why := _too_much(tokenizer)) is not None:
        raise ModelError(
            f"{path}: the tokenizer cannot be served: {why}. Take it from where the model was trained, or mend it."
        )
    return tokenizer


def _too_much(tokenizer: Tokenizer) -> str | None:
    """What is wrong with it, if something is."""
    growth = _growth(tokenizer.normalizer) * _growth(tokenizer.pre_tokenizer)
    if max(growth, _growth(tokenizer.decoder)) > MAX_GROWTH:
        return f"what it replaces can make a text more than {MAX_GROWTH} times as long"
    tokens = list[int]()

    def encode() -> None:
        with suppress(Exception):  # It may not know these characters.
            tokens.extend(tokenizer.encode(TRIAL).ids)

    trial = Thread(target=encode, daemon=True, name="tokenizer-trial")
    trial.start()
    trial.join(TRIAL_SECONDS)
    if trial.is_alive():
        return f"{len(TRIAL):,} characters take it more than {TRIAL_SECONDS:g} s"
    if len(tokens) > MAX_TOKENS_PER_CHAR * len(TRIAL):
        return f"it makes {len(tokens):,} tokens of {len(TRIAL):,} characters"
    return None


def _growth(part: Any) -> float:
    """How many times as long a normalizer, pre-tokenizer or decoder may make a text; an upper bound."""
    return 1.0 if part is None else _growth_of(msgspec.json.decode(part.__getstate__()))


def _growth_of(step: dict[str, Any]) -> float:
    match step:
        case {"type": "Sequence"}:
            steps = next(value for value in step.values() if isinstance(value, list))
            return prod(map(_growth_of, steps))
        case {"type": "Replace", "pattern": {"String": str(found)}, "content": content} if found:
            return max(1.0, len(content) / len(found))
        case {"type": "Replace", "content": content}:  # a regular expression may also match between two characters
            return 1.0 + len(content)
        case {"type": "ByteLevel"}:
            return 2.0
        case {"type": "Precompiled", "precompiled_charsmap": table}:
            return max(map(len, _replacements(base64.b64decode(table))))
    return 1.0


def _replacements(table: bytes) -> list[str]:
    """Of SentencePiece's table: the bytes of a trie, the trie, and what it points to, each with a zero behind."""
    start = 4 + int.from_bytes(table[:4], "little")
    return table[start:].decode("utf-8", "replace").split("\0")
