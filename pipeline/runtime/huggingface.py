"""The tokenizers library of Hugging Face, behind :class:`pipeline.runtime.session.TextCodec`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer

from pipeline.errors import ModelError

__all__ = ["HuggingFaceTokenizer", "open_tokenizer"]


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
    """Load a ``tokenizer.json``. Raises ModelError when it is missing or damaged."""
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # The library raises bare Exception.
        raise ModelError(f"{path}: the tokenizer cannot be read: {error}") from error
    # What is too long is refused by us, with its length; it must not be cut in silence.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return HuggingFaceTokenizer(tokenizer)
