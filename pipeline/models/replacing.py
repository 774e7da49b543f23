"""Replacing a version's folder by another one, so that a kill between the two steps loses neither.

The old folder is moved aside, to a hidden name beside its own, and removed once the new one has its place. What a kill
leaves aside is put back by whoever next changes the model, or looks for that version. An old folder that cannot be
deleted gets a name under which nobody puts it back, for it may be half a one, and whoever next changes the model tries
again.
"""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from pipeline.models.files import sync_folder

__all__ = ["delete_folder", "is_between", "put_back", "replace_folder"]

LOG = logging.getLogger(__name__)
ASIDE, GONE = "@replaced", "@gone-"
"""How the hidden name ends, and how it goes on once the folder is to be deleted; no version's name has an @."""


def replace_folder(built: Path, target: Path) -> None:
    """Move ``built`` to ``target``, in the place of what was there.

    Whoever has files of the old one open keeps them. Hold :func:`pipeline.models.install.changing`.

    Raises:
        OSError: it cannot be moved; the old one is in its place then.
    """
    try:
        if target.exists():
            target.rename(target.with_name(f".{target.name}{ASIDE}"))
        built.rename(target)
        sync_folder(target.parent)
    finally:  # after Ctrl-C too
        put_back(target.parent)


def put_back(folder: Path) -> None:
    """End every replacement in a model's ``folder``: where the new version is in place the old one is removed.

    Otherwise the old one is put back. Hold :func:`pipeline.models.install.changing`. Raises OSError.
    """
    for left in folder.glob(f".*{GONE}*"):
        shutil.rmtree(left, ignore_errors=True)
    for aside in folder.glob(f".*{ASIDE}"):
        target = _place_of(aside)
        if target.exists():
            delete_folder(aside.rename(aside.with_name(f".{target.name}{GONE}{secrets.token_hex(4)}")))
        else:
            aside.rename(target)


def is_between(entries: Iterable[Path]) -> bool:
    """Whether, of all that is in a model's folder, a version is aside and none in its place."""
    here = set(entries)
    return any(_place_of(entry) not in here for entry in here if entry.name.endswith(ASIDE))


def delete_folder(folder: Path) -> None:
    """Delete a folder that is no version any more; what stays of it is warned of, for what was asked for is done."""
    try:
        if folder.is_symlink():  # what it leads to is not the store's
            folder.unlink()
        else:
            shutil.rmtree(folder)
    except OSError as error:
        LOG.warning("%s could not be deleted, and is in nobody's way: %s", folder, error.strerror or error)


def _place_of(aside: Path) -> Path:
    return aside.with_name(aside.name.removeprefix(".").removesuffix(ASIDE))
