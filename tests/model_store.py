"""Versions of the fake models in a store of a test's own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from pipeline.models.card import Variant
from pipeline.models.cardfile import write_card
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
    **fields: Any,
) -> Path:
    """The folder of a version whose graph, and so its digest, is its own; ``fields`` replace those of the card."""
    folder = store / name / version
    folder.mkdir(parents=True, exist_ok=True)
    content = graph or f"graph of {name}@{version}".encode()
    (folder / "int8.onnx").write_bytes(content)
    variants = {"int8": Variant(file="int8.onnx", sha256=hashlib.sha256(content).hexdigest())}
    values = {"name": name, "version": version, "variants": variants} | fields
    write_card(replace(make(folder).card, **values), folder)
    return folder
