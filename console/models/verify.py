"""`millrace models verify`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from console.models.describe import spec_of
from console.output import Output, json_option
from pipeline.errors import ModelError
from pipeline.models.folders import list_folders, list_without_card
from pipeline.models.names import look_until_settled, not_found, pointed_version, split_spec
from pipeline.models.store import read_folder
from pipeline.settings import Settings, load_settings

__all__ = ["verify"]


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME...]")
@json_option
def verify(names: Sequence[str], *, as_json: bool) -> int:
    """Check every file of the models against its SHA-256, and the pointers; all models without NAME.

    Exit status 1 if one is damaged, or lacks its card.
    """
    settings, output = load_settings(), Output(as_json=as_json)
    here = [*list_folders(settings), *list_without_card(settings)]
    found = [folder for name in names for folder in _versions(name, here, settings)] if names else here
    results = [_result(folder, settings) for folder in found]
    pointers = [_pointer(name, settings) for name in sorted({folder.parent.name for folder in found})]
    for result in results:
        output.say(f"{result['model']}: {result['error'] or 'sound'}")
    for pointer in pointers:
        output.say(f"{pointer['model']}: {pointer['error'] or _promoted(pointer['version'])}")
    if as_json:
        output.document({"models": results, "pointers": pointers})
    return int(any(result["error"] for result in (*results, *pointers)))


def _versions(name: str, here: Sequence[Path], settings: Settings) -> list[Path]:
    """The folders of the versions that ``name`` or ``name@version`` means, whole or not."""
    found = [folder for folder in here if name in (folder.parent.name, spec_of(folder))]
    if not found:
        raise ModelError(not_found(*split_spec(name), settings))
    return found


def _pointer(name: str, settings: Settings) -> dict[str, str | None]:
    try:
        return {"model": name, "version": pointed_version(name, settings), "error": None}
    except ModelError as error:
        return {"model": name, "version": None, "error": str(error)}


def _promoted(version: str | None) -> str:
    return f"{version} is promoted" if version else "no version is pinned"


def _result(folder: Path, settings: Settings) -> dict[str, str | None]:
    result: dict[str, str | None] = {"model": spec_of(folder), "folder": str(folder), "error": None}
    try:
        look_until_settled(spec_of(folder), settings, lambda: read_folder(folder).verified())
    except ModelError as error:
        result["error"] = str(error)
    return result
