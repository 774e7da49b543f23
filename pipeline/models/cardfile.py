"""Reading and writing ``model.toml``, and the digests that a card keeps of its files."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from pipeline.errors import ModelError
from pipeline.models.card import ModelCard, VariantName, cache_of
from pipeline.models.outside import places_of_weights
from pipeline.models.pasts import types_of_pasts
from pipeline.models.shelves import remedy
from schemas.messages import Task

__all__ = ["CARD_FILE", "check_file", "check_variant", "files_beside", "read_card", "sha256_of", "write_card"]

CARD_FILE = "model.toml"
# What each task needs of the card, and of each variant beside its main graph.
_TABLES: dict[Task, tuple[str, ...]] = {
    "text-generation": ("text",),
    "text-classification": ("encoder",),
    "embeddings": ("encoder",),
    "image-classification": ("image",),
    "object-detection": ("image", "detection"),
    "zero-shot-image-classification": ("image", "encoder", "zero_shot"),
    "image-to-text": ("text", "image", "vision"),
}
_PARTS: dict[Task, tuple[str, ...]] = {"zero-shot-image-classification": ("text",), "image-to-text": ("vision",)}


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_card(folder: Path) -> ModelCard:
    """Read and check the card in a version's folder.

    Raises:
        ModelError: there is no card, it breaks a rule of :class:`~pipeline.models.card.ModelCard`, it names a file
            outside its folder, or it has no digest of one that is read.
    """
    path = folder / CARD_FILE
    try:
        card = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), ModelCard)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        way_out = remedy(folder.parent.name, folder.name, folder)
        raise ModelError(f"model card {path}: {why}. {way_out}") from error
    _check_spec(card, path)
    _check_files(card, path)
    return card


def write_card(card: ModelCard, folder: Path) -> Path:
    """Write ``model.toml`` into ``folder`` and return its path. Unset fields are left out. Raises OSError."""
    path = folder / CARD_FILE
    path.write_text(tomli_w.dumps(_without_none(msgspec.to_builtins(card))), encoding="utf-8")
    return path


def check_file(path: Path, digest: str, model: str) -> None:
    """Check that ``path`` has the SHA-256 ``digest``.

    Raises:
        ModelError: it is missing, unreadable or changed; it names ``model`` (``name@version``) and the way out.
    """
    name, _, version = model.partition("@")
    way_out = remedy(name, version, path.parent)
    try:
        found = sha256_of(path)
    except OSError as error:
        raise ModelError(f"model {model}: cannot read {path}: {error.strerror or error}. {way_out}") from error
    if found != digest:
        raise ModelError(
            f"model {model}: {path} is damaged: its SHA-256 is {found[:12]}..., the card says {digest[:12]}.... "
            f"{way_out}"
        )


def check_variant(card: ModelCard, folder: Path, variant: VariantName) -> None:
    """Check one variant's graphs and every file the card lists beside them.

    Raises:
        ModelError: a file is not the one that the card names, a graph keeps weights in one that it does not name, or
            the KV cache is of another type than it says.
    """
    model, chosen = f"{card.name}@{card.version}", card.variants[variant]
    for name, digest in (chosen.digests | card.files).items():
        check_file(folder / name, digest, model)
    for graph in chosen.digests.keys() - chosen.weight_files:
        if unlisted := sorted(places_of_weights(folder / graph) - chosen.weight_files):
            raise ModelError(
                f"model {model}: {folder / graph} keeps weights in {unlisted[0]}, and the card has no digest of that "
                f"file. Name it in {folder / CARD_FILE} as a part of the variant: [variants.{variant}.parts.data], "
                "with file and sha256."
            )
    if card.text is not None:
        _check_cache(card, folder, variant)


def _check_cache(card: ModelCard, folder: Path, variant: VariantName) -> None:
    """The memory that a model needs, and the device that it may run on, are reckoned by what the card says."""
    path, said = card.variant_path(folder, variant), cache_of(card, variant)
    for name, found in types_of_pasts(path).items():
        if found == said:
            continue
        way_out = remedy(card.name, card.version, folder)
        what = f"model {card.name}@{card.version}: {path}: its input {name}"
        if found is None:
            raise ModelError(f"{what} is of a type that no KV cache has: float32, float16 or int8. {way_out}")
        raise ModelError(
            f"{what} is {found}, and the card says {said}. If the graph is the right one, write "
            f'cache = "{found}" into [variants.{variant}] of {folder / CARD_FILE}. Otherwise: {way_out}'
        )


def _check_spec(card: ModelCard, path: Path) -> None:
    for table in _TABLES[card.task]:
        if getattr(card, table) is None:
            raise ModelError(f"model card {path}: a model of task {card.task!r} needs a [{table}] table.")
    labelled = {"text-classification": "encoder", "image-classification": "image", "object-detection": "image"}
    table = labelled.get(card.task, "")
    if table and getattr(card, table).labels is None:
        raise ModelError(f"model card {path}: a model of task {card.task!r} needs `labels` in its [{table}] table.")
    if not card.variants:
        raise ModelError(f"model card {path}: it names no variant.")
    for name, variant in card.variants.items():
        if missing := [role for role in _PARTS.get(card.task, ()) if role not in variant.parts]:
            raise ModelError(f"model card {path}: its variant {name} lacks the graph {', '.join(missing)}.")


def files_beside(card: ModelCard) -> list[str]:
    """The names of what serving reads beside the graphs: tokenizer, chat template and labels."""
    tables = (card.text, card.encoder, card.image)
    names = (getattr(table, field, None) for table in tables for field in ("tokenizer", "chat_template", "labels"))
    return [name for name in names if name is not None]


def _check_files(card: ModelCard, path: Path) -> None:
    beside = files_beside(card)
    graphs = [name for variant in card.variants.values() for name in variant.digests]
    for name in (*graphs, *beside, *card.files):
        if Path(name).name != name or name in {"", ".", "..", CARD_FILE}:
            raise ModelError(f"model card {path}: {name!r} is not the name of a file beside the card.")
    for name in beside:
        if name not in card.files:
            raise ModelError(
                f"model card {path}: {name} is read and the card has no digest of it, so a change would go unnoticed. "
                f'Add "{name}" to its [files] with what `sha256sum {path.parent / name}` says.'
            )


def _without_none(value: Any) -> Any:
    """TOML has no null: unset fields are left out."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
