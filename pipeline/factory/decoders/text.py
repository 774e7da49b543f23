"""The text part of a decoder's card, from a Hugging Face folder: tokenizer, chat template, and the tokens that end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pipeline.factory.decoders.spec import DecoderSpec
from pipeline.factory.family import Source, Workbench
from pipeline.factory.sources.huggingface_folder import CONFIG
from pipeline.factory.sources.json_file import read_json_object
from pipeline.factory.sources.tokenizer import TOKENIZER, check_token_id, check_token_ids, copy_tokenizer
from pipeline.models.card import ModelCard, TextSpec, Variant
from pipeline.models.cardfile import sha256_of
from pipeline.tasks.prompts import load_chat_template

__all__ = ["read_text_spec", "text_card", "text_files"]

TEMPLATE = "chat_template.jinja"
GENERATION = "generation_config.json"
"""Of the first Llama and others: there is none to begin or to pad with."""
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


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
        ModelError: there is no ``tokenizer.json``, it is not this model's, a configuration names a token that the model
            does not know, or the chat template has an error.
    """
    folder = source.folder
    tokenizer = copy_tokenizer(source, bench, folder)
    check_token_ids(tokenizer, spec.vocabulary, source.origin)
    settings = read_json_object(folder / "tokenizer_config.json", missing={})
    special = _special(read_json_object(folder / "special_tokens_map.json", missing={}) | settings)
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
        eos_token_ids=_ends(source, tokenizer, special, spec.vocabulary),
        bos_token_id=_begin(tokenizer),
        chat_template=None if template is None else TEMPLATE,
        special=special,
    )


def _ends(source: Source, tokenizer: Tokenizer, special: dict[str, str], vocabulary: int) -> tuple[int, ...]:
    """What ends an answer: all that either configuration says, or else the tokenizer's own end."""
    config, generation = source.folder / CONFIG, source.folder / GENERATION
    found = {
        *_named_ends(source.config, "", vocabulary, config),
        *_named_ends(source.config.get("text_config") or {}, "text_config.", vocabulary, config),
        *_named_ends(read_json_object(generation, missing={}), "", vocabulary, generation),
    }
    if not found and (end := tokenizer.token_to_id(special.get("eos_token", ""))) is not None:
        found.add(end)
    return tuple(sorted(found))


def _named_ends(settings: dict[str, Any], before: str, vocabulary: int, file: Path) -> list[int]:
    """What ``settings`` of ``file`` say; ``before`` stands before their key. Raises ModelError for no tokens.

    What begins and pads a text is not looked at: nothing here reads it, and sound models pad beyond their vocabulary.
    """
    ends = settings.get("eos_token_id")
    named = ends if isinstance(ends, list) else [] if ends is None else [ends]
    for token in named:
        check_token_id(token, vocabulary, f"{before}eos_token_id", str(file))
    return named


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
    beside = read_json_object(folder / "chat_template.json", missing={})
    found = beside.get("chat_template") or settings.get("chat_template")
    if isinstance(found, list):
        found = {one.get("name"): one.get("template") for one in found}.get("default")
    return found if isinstance(found, str) else None
