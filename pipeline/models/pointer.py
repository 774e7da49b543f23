"""The pinned pointer: ``<store>/<name>/latest`` is one line that names the promoted version.

It is a file and not a link, so that it survives every copy, archive and package. It is replaced by renaming, so
that whoever reads it meanwhile gets the old version's name or the new one's, whole.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.models.card import NAME
from pipeline.models.files import replace_file

__all__ = ["POINTER_FILE", "RESERVED", "read_pointer", "write_pointer"]

POINTER_FILE = "latest"
RESERVED = (POINTER_FILE, "profiles")
"""What stands beside the versions, so no version may be named so."""


def read_pointer(folder: Path) -> str | None:
    """The version that a model's ``folder`` points to, whether it is there or not; ``None`` without a pointer.

    Raises:
        ModelError: the pointer cannot be read, or is no version's name.
    """
    path = folder / POINTER_FILE
    try:
        version = path.read_text(encoding="utf-8").removesuffix("\n")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, f"it cannot be read ({error})") from error
    if re.fullmatch(NAME, version) is None:
        raise _damaged(path, f"{version[:80]!r} is no version's name")
    return version


def write_pointer(folder: Path, version: str) -> None:
    """Point a model's ``folder`` to ``version``, at once and for good. Raises OSError."""
    replace_file(folder / POINTER_FILE, f"{version}\n")


def _damaged(path: Path, why: str) -> ModelError:
    name = path.parent.name
    return ModelError(f"the pointer {path} is damaged: {why}. Write it anew: `millrace models promote {name} VERSION`.")
