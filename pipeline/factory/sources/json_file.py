"""Reads the JSON files that lie beside a model: each is checked to hold an object, or a list of objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError

__all__ = ["read_json_object", "read_json_objects"]


def read_json_object(path: Path, *, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    """The object in ``path``.

    Args:
        path: the file.
        missing: what stands for a file that is not there; ``None`` where it must be.

    Raises:
        ModelError: the file is damaged, or holds something else, or is missing without a stand-in.
    """
    if missing is not None and not path.is_file():
        return missing
    found = _read(path)
    if not isinstance(found, dict):
        raise ModelError(f"{path}: it holds a {type(found).__name__}, not an object. Fetch the model again.")
    return found


def read_json_objects(path: Path) -> list[dict[str, Any]]:
    """The list of objects in ``path``; empty for a file that is not there. Raises ModelError for anything else."""
    if not path.is_file():
        return []
    found = _read(path)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise ModelError(f"{path}: it holds something else than a list of objects. Fetch the model again.")
    return found


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read: {error}. Fetch the model again.") from error
