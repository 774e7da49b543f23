"""The text part of a decoder's card, from a Hugging Face folder: tokenizer, chat template, and the tokens that end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pipeline.errors import ModelError
from pipeline.factory.decoders.spec import DecoderSpec
from pipeline.factory.family import Source, Workbench
from pipeline.models.card import ModelCard, TextSpec, Variant
from pipeline.models.cardfile import sha256_of
from pipeline.tasks.prompts import load_chat_template

__all__ = ["folder_of", "read_text_spec", "text_card", "text_files"]

TOKENIZER, TEMPLATE = "tokenizer.json", "chat_template.jinja"
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


def folder_of(source: Source) -> Path:
    """Where the source's files are. Raises ModelError when it has none."""
    if source.path is None:
        raise ModelError(f"{source.origin}: a decoder is built from a folder with config.json and *.safetensors.")
    return source.path


def text_card(source: Source, bench: Workbench, spec: DecoderSpec, variant: Variant) -> ModelCard:
    """The card of a text generation model; its tokenizer and chat template are put beside it. Raises ModelError."""
    return ModelCard(
        name=bench.name,
        version=bench.version,
        task="text-generation",
        description=f"{source.architecture} of {spec.layers} layers of {spec.hidden}.",
        license=source.license,
        source=source.origin,
        variants={"fp32": variant},
        text=read_text_spec(source, bench, spec),
        files=text_files(bench.folder),
    )


def text_files(folder: Path) -> dict[str, str]:
    """The digests of what :func:`read_text_spec` has written."""
    return {name: sha256_of(folder / name) for name in (TOKENIZER, TEMPLATE) if (folder / name).exists()}


def read_text_spec(source: Source, bench: Workbench, spec: DecoderSpec) -> TextSpec:
    """Copy the tokenizer and the chat template to the workbench, and say how they are used.

    Raises:
        ModelError: there is no ``tokenizer.json``, it is not this model's, or the chat template has an error.
    """
    folder = folder_of(source)
    tokenizer = _copy_tokenizer(source, folder, bench.folder, spec.vocabulary)
    settings = _json(folder / "tokenizer_config.json")
    special = _special(_json(folder / "special_tokens_map.json") | settings)
    template = _template(folder, settings)
    if template is not None:
        (bench.folder / TEMPLATE).write_text(template, encoding="utf-8")
        load_chat_template(bench.folder / TEMPLATE)
    return TextSpec(
        tokenizer=TOKENIZER,
        layers=spec.layers,
        kv_heads=spec.kv_heads,
        head_size=spec.head_size,
        vocabulary=spec.vocabulary,
        max_length=spec.max_length,
        eos_token_ids=_ends(source.config, folder, tokenizer, special),
        bos_token_id=_begin(tokenizer),
        chat_template=None if template is None else TEMPLATE,
        special=special,
    )


def _copy_tokenizer(source: Source, folder: Path, target: Path, vocabulary: int) -> Tokenizer:
    path = source.hints.tokenizer or folder / TOKENIZER
    if not path.is_file():
        raise ModelError(
            f"{source.origin}: there is no {path.name}. Where the model has a tokenizer of another form, write one "
            "with transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
        )
    shutil.copyfile(path, target / TOKENIZER)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{source.origin}: {path} cannot be read: {error}") from error
    if (size := tokenizer.get_vocab_size(with_added_tokens=False)) > vocabulary:
        raise ModelError(
            f"{source.origin}: {path.name} has {size:,} tokens, and the model {vocabulary:,}: not its own."
        )
    return tokenizer


def _ends(config: dict[str, Any], folder: Path, tokenizer: Tokenizer, special: dict[str, str]) -> tuple[int, ...]:
    """What ends an answer: all that either configuration says, or else the tokenizer's own end."""
    found = set[int]()
    for settings in (config, config.get("text_config") or {}, _json(folder / "generation_config.json")):
        ends = settings.get("eos_token_id")
        found.update(ends if isinstance(ends, list) else [] if ends is None else [ends])
    if not found and (end := tokenizer.token_to_id(special.get("eos_token", ""))) is not None:
        found.add(end)
    return tuple(sorted(found))


def _begin(tokenizer: Tokenizer) -> int | None:
    """The token that the tokenizer itself puts before a text, if it does."""
    bare, whole = (tokenizer.encode("a", add_special_tokens=added).ids for added in (False, True))
    return int(whole[0]) if whole[:1] != bare[:1] else None


def _special(settings: dict[str, Any]) -> dict[str, str]:
    """Strings by name; a token with options is an object that has its text as ``content``."""
    found = {name: settings.get(name) for name in SPECIAL}
    texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in found.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _template(folder: Path, settings: dict[str, Any]) -> str | None:
    """From where transformers looks, in its order; of several by name, the one called ``default``."""
    if (file := folder / TEMPLATE).is_file():
        return file.read_text(encoding="utf-8")
    found = _json(folder / "chat_template.json").get("chat_template") or settings.get("chat_template")
    if isinstance(found, list):
        found = {one.get("name"): one.get("template") for one in found}.get("default")
    return found if isinstance(found, str) else None


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; empty when there is no such file. Raises ModelError for one that is damaged."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}. Fetch the model again.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path}: it holds a {type(found).__name__}, not an object. Fetch the model again.")
    return found
