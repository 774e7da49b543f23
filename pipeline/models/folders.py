"""Which versions stand on the shelves: their folders, whatever is in them.

Others build, replace and remove versions meanwhile, so what goes away while it is looked at is passed over.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.models.card import NAME
from pipeline.models.cardfile import CARD_FILE
from pipeline.models.install import changing
from pipeline.models.pointer import RESERVED
from pipeline.models.replacing import is_between
from pipeline.models.shelves import SHIPPED
from pipeline.settings import Settings

__all__ = ["in_order", "list_folders", "list_without_card", "names_of_models", "shelves", "versions_of"]


def shelves(settings: Settings) -> tuple[Path, Path]:
    """The store and the shipped models; what is on the first hides what is on the second."""
    return settings.models.store_path, SHIPPED


def versions_of(name: str, settings: Settings) -> dict[str, Path]:
    """The folders of a model's versions, by version; the store's where the shipped shelf has the same."""
    return {folder.name: folder for shelf in reversed(shelves(settings)) for folder in _folders(shelf, name)}


def names_of_models(settings: Settings) -> set[str]:
    """Of the models that have a version on a shelf."""
    named = {(shelf, entry.name) for shelf in shelves(settings) for entry in _entries(shelf)}
    return {name for shelf, name in named if any(_folders(shelf, name))}


def list_folders(settings: Settings) -> list[Path]:
    """The folder of every version on the shelves, by name, newest first, whether its card can be read or not.

    A version in the store hides the shipped one.
    """
    folders = [folder for name in sorted(names_of_models(settings)) for folder in versions_of(name, settings).values()]
    folders.sort(key=lambda folder: _natural(folder.name), reverse=True)
    return sorted(folders, key=lambda folder: folder.parent.name)


def list_without_card(settings: Settings) -> list[Path]:
    """Folders of the store that stand in a version's place and have no card: they are none, and nobody else tells."""
    found = [folder for model in _entries(settings.models.store_path) for folder in _places(_entries(model))]
    return sorted(folder for folder in found if os.path.isdir(folder) and not _has_card(folder))  # noqa: PTH112


def in_order(versions: Iterable[str]) -> list[str]:
    """Versions from the oldest to the newest: 0.10 follows 0.9."""
    return sorted(versions, key=_natural)


def _folders(shelf: Path, name: str) -> list[Path]:
    """Folders with a card; one that someone is just replacing is waited for."""
    places = _settled(shelf, name)
    found = list(filter(_has_card, places))
    if len(found) < len(places):  # one of them may have been moved aside since it was listed
        found = list(filter(_has_card, _settled(shelf, name)))
    return found


def _settled(shelf: Path, name: str) -> list[Path]:
    """What is named as a version; first, what a killed command left aside is put back."""
    entries = _entries(shelf / name)
    if is_between(entries):
        with contextlib.suppress(ModelError), changing(shelf, name):
            pass
        entries = _entries(shelf / name)
    return _places(entries)


def _places(entries: Iterable[Path]) -> list[Path]:
    """What in the folder of a model is named as a version; what is being built has names that no version has."""
    return [
        entry
        for entry in entries
        if re.fullmatch(NAME, entry.parent.name) and re.fullmatch(NAME, entry.name) and entry.name not in RESERVED
    ]


def _has_card(folder: Path) -> bool:
    return os.path.exists(folder / CARD_FILE)  # noqa: PTH110 - Path's raises where it may not look


def _entries(folder: Path) -> list[Path]:
    """What is in ``folder``: nothing where it is none, may not be looked into, or went away just now."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries]
    except OSError:
        return []


def _natural(version: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key in which 0.10 follows 0.9."""
    parts = re.findall(r"\d+|[a-z]+", version)
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts)
