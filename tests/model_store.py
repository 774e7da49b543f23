"""Versions of the fake models in a store of a test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from pipeline.models.card import GraphFile, Variant
from pipeline.models.cardfile import files_beside, sha256_of, write_card
from pipeline.models.store import ServedModel
from pipeline.runtime.fakes import fake_classifier

__all__ = ["put_version"]


def put_version(
    store: Path,
    version: str,
    *,
    name: str = "toy",
    make: Callable[[Path], ServedModel] = fake_classifier,
    graph: bytes | None = None,
    names: Sequence[str] = ("int8",),
    **fields: Any,
) -> Path:
    """The folder of a version whose graphs, and so its digests, are its own.

    Args:
        store: where.
        version: its name.
        name: the model's.
        make: makes the fake model that the card is taken from.
        graph: what is in the graphs, by default something that no other version has.
        names: of the variants.
        fields: take the place of the card's.
    """
    folder = store / name / version
    folder.mkdir(parents=True, exist_ok=True)
    content = graph or f"graph of {name}@{version}".encode()
    card = make(folder).card
    variants = {variant: _written(folder, variant, content, card.variants["int8"].parts) for variant in names}
    for file in files_beside(card):
        (folder / file).touch()  # the fakes read no tokenizer
    files = {file: sha256_of(folder / file) for file in files_beside(card)}
    own = {"name": name, "version": version, "variants": variants, "files": files}
    write_card(replace(card, **(own | fields)), folder)
    return folder


def _written(folder: Path, variant: str, content: bytes, roles: Iterable[str]) -> Variant:
    """A variant whose files are in ``folder``, as is what its card says of them."""
    files = {role: f"{variant}.{role}.onnx" for role in roles}
    for file in (f"{variant}.onnx", *files.values()):
        (folder / file).write_bytes(f"{file}: ".encode() + content)
    parts = {role: GraphFile(file=file, sha256=sha256_of(folder / file)) for role, file in files.items()}
    return Variant(file=f"{variant}.onnx", sha256=sha256_of(folder / f"{variant}.onnx"), parts=parts)
