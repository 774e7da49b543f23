"""What a new version in the store is called."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.models.card import NAME
from pipeline.models.cardfile import CARD_FILE
from pipeline.models.pointer import RESERVED
from pipeline.models.shelves import SHIPPED

__all__ = ["check_name", "new_version", "next_version"]


def new_version(store: Path, name: str, version: str | None, *, force: bool | None = None) -> str:
    """``version``, or the next free whole number; hold :func:`pipeline.models.install.locked` until it is installed.

    Args:
        store: where.
        name: of the model.
        version: what was asked for.
        force: replace it if it is there; ``None`` where that cannot be asked for.

    Raises:
        ModelError: there can be no such version, or it is there already and not to be replaced.
    """
    version = version or next_version(store, name)
    check_name("version", version)
    target = store / name / version
    if target.exists() and not force:
        way_out = "name another" if force is None else "add --force to replace it"
        raise ModelError(
            f"model {name}@{version} is there already ({target}). Leave --version out to take the next whole number, "
            f"or {way_out}."
        )
    return version


def next_version(store: Path, name: str) -> str:
    """The whole number after all versions of ``name``, in the store and among the shipped models; ``1`` without any."""
    versions = [card.parent.name for shelf in (store, SHIPPED) for card in shelf.glob(f"{name}/*/{CARD_FILE}")]
    numbers = [int(found[0]) for version in versions if (found := re.match(r"\d+", version))]
    return str(max(numbers, default=0) + 1)


def check_name(what: str, value: str) -> None:
    """Raise ModelError where ``value`` cannot be a model's ``what``: its ``name`` or ``version``."""
    if re.fullmatch(NAME, value) is None or (what == "version" and value in RESERVED):
        reserved = f", and neither {' nor '.join(RESERVED)}" if what == "version" else ""
        raise ModelError(
            f"{value!r} cannot be a model's {what}: lower case letters, digits, '.', '_' and '-', at most 64{reserved}."
        )
