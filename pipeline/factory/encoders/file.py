"""Writes an encoder's graphs to its folder, with the weights beside them where one file cannot hold them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

from pipeline.errors import ModelError
from pipeline.factory.sources.safetensors_file import Tensors
from pipeline.models.card import GraphFile
from pipeline.models.cardfile import sha256_of

__all__ = ["weights_file", "write_graph"]

# Protocol buffers end at 2 GB, and the graph needs some of it.
LARGEST_FILE = 1_900_000_000


def weights_file(tensors: Tensors, graph: Path) -> Path | None:
    """Where the weights of ``graph`` go, for a checkpoint too large for one file; else ``None``, into it."""
    return graph.with_name(f"{graph.name}.data") if tensors.nbytes() > LARGEST_FILE else None


def write_graph(
    build: Callable[[], onnx.ModelProto], graph: Path, data: Path | None, role: str
) -> dict[str, GraphFile]:
    """Write what ``build`` makes. Returns the files by their names in a card: ``role``, and ``<role>-data`` if any.

    The main graph has the role ``""``, and its weights are ``data``. Raises ModelError.
    """
    try:
        onnx.save(build(), graph)
    except OSError as error:
        raise ModelError(f"{graph}: cannot be written: {error.strerror or error}.") from error
    files = {role: graph} | ({} if data is None else {f"{role}-data".lstrip("-"): data})
    return {name: GraphFile(file=path.name, sha256=sha256_of(path)) for name, path in files.items()}
