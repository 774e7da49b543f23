"""The ``tokenizer.json`` of an encoder: checked to be the model's own, and put beside its graph."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from pipeline.errors import ModelError
from pipeline.factory.family import Source, Workbench
from pipeline.runtime.huggingface import open_tokenizer

__all__ = ["TOKENIZER", "copy_tokenizer", "source_folder"]

TOKENIZER = "tokenizer.json"


def source_folder(source: Source) -> Path:
    """The folder that a source is. Raises ModelError when it is none."""
    if source.path is None or not source.path.is_dir():
        raise ModelError(f"{source.origin}: {source.architecture} is built from a folder as save_pretrained leaves it.")
    return source.path


def copy_tokenizer(source: Source, bench: Workbench, vocabulary: int) -> None:
    """Put the source's tokenizer, or the one that the user names, into the workbench.

    Args:
        source: a folder.
        bench: where it goes.
        vocabulary: how many tokens the model knows.

    Raises:
        ModelError: there is no ``tokenizer.json``, it is damaged, or it knows more tokens than the model.
    """
    path = source.hints.tokenizer or source_folder(source) / TOKENIZER
    if not path.is_file():
        raise ModelError(
            f"{source.origin}: there is no {path.name}. Where the model has a tokenizer of another form, write one "
            "with transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
        )
    open_tokenizer(path)
    # The bytes are kept; what they say of cutting and padding is left unheeded when they are served.
    text = path.read_text(encoding="utf-8")
    largest = max(Tokenizer.from_str(text).get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= vocabulary:
        raise ModelError(
            f"{source.origin}: {path.name} has a token {largest:,}, and the model knows {vocabulary:,}: it is another "
            "model's, or tokens were added to it alone."
        )
    (bench.folder / TOKENIZER).write_text(text, encoding="utf-8")
