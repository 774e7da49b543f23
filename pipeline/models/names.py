"""Which folder a name means: ``NAME@VERSION`` is that version, and ``NAME`` the promoted one.

The store's pointer says which is promoted, or else the shipped shelf's (:mod:`pipeline.models.pointer`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeVar

from pipeline.errors import ModelError
from pipeline.models.card import NAME
from pipeline.models.cardfile import CARD_FILE
from pipeline.models.folders import in_order, names_of_models, shelves, versions_of
from pipeline.models.pointer import POINTER_FILE, read_pointer
from pipeline.models.shelves import PULLABLE
from pipeline.settings import Settings

__all__ = [
    "find_folder",
    "fingerprint",
    "look_until_settled",
    "not_found",
    "pointed_version",
    "promoted_version",
    "split_spec",
]

LOOKS = 5
"""How often a version that is replaced each time is looked at."""
SPEC = re.compile(f"(?P<name>{NAME})(@(?P<version>{NAME}))?")
T = TypeVar("T")


def find_folder(spec: str, settings: Settings) -> Path:
    """The folder of ``name`` or ``name@version``; nothing in it is read. Raises ModelError."""
    name, version = split_spec(spec)
    folders = versions_of(name, settings)
    if version is None and folders:
        version = promoted_version(name, settings)
    if version not in folders:
        raise ModelError(not_found(name, version, settings))
    return folders[version]


def split_spec(spec: str) -> tuple[str, str | None]:
    """The name and the version that ``spec`` consists of. Raises ModelError for what can be neither."""
    match = SPEC.fullmatch(spec)
    if match is None:
        raise ModelError(f"model {spec!r}: a model is named NAME or NAME@VERSION, in lower case.")
    return match["name"], match["version"]


def promoted_version(name: str, settings: Settings) -> str:
    """The version that ``name`` means: the pointer's, or the only one.

    Raises:
        ModelError: the model is not here, none of several versions is promoted, or the pointer names none of them.
    """
    versions = versions_of(name, settings)
    if not versions:
        raise ModelError(not_found(name, None, settings))
    if (version := pointed_version(name, settings)) is not None:
        return version
    if len(versions) > 1:
        raise ModelError(
            f"model {name} has several versions and none is promoted: {', '.join(in_order(versions))}. Choose one with "
            f"`millrace models promote {name} VERSION`, or name it: {name}@VERSION."
        )
    return next(iter(versions))


def pointed_version(name: str, settings: Settings) -> str | None:
    """The version that the pointer of ``name`` names; ``None`` without a pointer.

    Raises:
        ModelError: the pointer is damaged, or that version is not here.
    """
    versions = versions_of(name, settings)
    for shelf in shelves(settings):
        version = read_pointer(shelf / name)
        if version is not None and version not in versions:
            raise ModelError(
                f"the pointer {shelf / name / POINTER_FILE} names version {version!r}, which is not here, only "
                f"{', '.join(in_order(versions)) or 'none'}. Write it anew: `millrace models promote {name} VERSION`."
            )
        if version is not None:
            return version
    return None


def look_until_settled(spec: str, settings: Settings, look: Callable[[], T]) -> T:
    """What ``look`` finds of ``spec``; where that fails and the version was replaced meanwhile, what it finds then.

    The files of a version that takes another one's place are not those of the card that was read before.

    Raises:
        ModelError: as ``look`` does, while nothing was replaced or for the :data:`LOOKS` th time.
    """
    for _ in range(LOOKS - 1):
        before = fingerprint(spec, settings)
        try:
            return look()
        except ModelError:
            if fingerprint(spec, settings) == before:
                raise
    return look()


def fingerprint(spec: str, settings: Settings) -> Hashable:
    """Changes whenever ``spec`` may mean something else: the status of a few files, and none is read but a pointer."""
    name = spec.partition("@")[0]
    pointers = [shelf / name / POINTER_FILE for shelf in shelves(settings)]
    try:
        place: Path | str = find_folder(spec, settings) / CARD_FILE
    except ModelError as error:
        place = str(error)
    files = [*pointers, place] if isinstance(place, Path) else pointers
    return (place, *map(_status, files))


def not_found(name: str, version: str | None, settings: Settings) -> str:
    """What is said of a model or a version that is not here, with the name that may be meant."""
    here = names_of_models(settings)
    place = f"neither in {settings.models.store_path} nor shipped with Millrace"
    if name in here:
        return f"model {name} has no version {version!r}: {place}. `millrace models list` shows the versions here."
    if name in PULLABLE:
        return f"model {name} is not here yet: {place}. Run `millrace models pull {name}`."
    nearest = difflib.get_close_matches(name, {*here, *PULLABLE}, n=1)
    hint = f"Did you mean {nearest[0]!r}?" if nearest else "`millrace models list` shows the models here."
    return f"model {name} is unknown: {place}. {hint}"


def _status(file: Path) -> tuple[int, int, int] | None:
    """What changes when a file is replaced or written."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
