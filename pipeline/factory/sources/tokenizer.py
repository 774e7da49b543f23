"""The ``tokenizer.json`` of a model: checked to be the model's own, and put beside its graph."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pipeline.errors import ModelError
from pipeline.factory.family import Source, Workbench
from pipeline.runtime.huggingface import read_tokenizer

__all__ = ["TOKENIZER", "check_token_id", "check_token_ids", "copy_tokenizer"]

TOKENIZER = "tokenizer.json"


def copy_tokenizer(source: Source, bench: Workbench, beside: Path) -> Tokenizer:
    """Put the tokenizer that the user names, or the one in the folder ``beside``, into the workbench.

    Its bytes are kept. What they say of cutting and padding is left unheeded, here as when it is served.

    Raises:
        ModelError: there is no ``tokenizer.json``, it is damaged, or makes too much of a text.
    """
    path = source.hints.tokenizer or beside / TOKENIZER
    if not path.is_file():
        raise ModelError(
            f"{source.origin}: there is no {path}. Give the model's tokenizer.json with --tokenizer; where it has one "
            "of another form, have transformers write it: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    tokenizer = read_tokenizer(path)
    shutil.copyfile(path, bench.folder / TOKENIZER)
    return tokenizer


def check_token_ids(tokenizer: Tokenizer, rows: int, where: str) -> None:
    """Every token, added ones too, has one of the embedding's ``rows``: Gather would fail at the first that has none.

    More rows than tokens are fine: many models, decoders above all, pad the embedding to a round number.

    Raises:
        ModelError: a token, or one that is added to every text, has no row; ``where`` is for the message.
    """
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= rows:
        raise ModelError(
            f"{where}: its tokenizer has a token {largest:,}, and the model knows {rows:,}: it is another model's, or "
            "tokens were added to it alone."
        )
    added = max(tokenizer.encode("").ids, default=0)
    if added >= rows:
        raise ModelError(
            f"{where}: {TOKENIZER}: its post_processor adds the token {added:,}, and the model knows {rows:,}: it is "
            "another model's. Write it again with the model's own tokens."
        )


def check_token_id(found: Any, rows: int, key: str, where: str) -> None:
    """Raise ModelError where ``found``, which a file has as ``key``, is no token of a model that knows ``rows``."""
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < rows:
        raise ModelError(
            f"{where}: {key} is {found!r}, and the model knows the tokens 0 to {rows - 1}. Correct it, or take "
            "the file that belongs to these weights."
        )
