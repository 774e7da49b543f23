"""Promoting a version, and removing one: what changes which version a name means."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.models.folders import versions_of
from pipeline.models.install import changing, locked, staging_prefix, writing
from pipeline.models.names import find_folder, look_until_settled, promoted_version, split_spec
from pipeline.models.pointer import POINTER_FILE, RESERVED, read_pointer, write_pointer
from pipeline.models.profile import profiles_of
from pipeline.models.replacing import delete_folder
from pipeline.models.store import ServedModel, read_model
from pipeline.settings import Settings

__all__ = ["promote", "remove"]


def promote(name: str, version: str, settings: Settings) -> tuple[ServedModel, str | None]:
    """Have ``name`` mean ``version``, which may be a shipped one; running workers follow.

    Every variant of it is checked against its digest before. A build of the same name that goes on is not waited for.

    Returns:
        The model, and the version that was promoted before, if there was one.

    Raises:
        ModelError: there is no such version, it is damaged or for another task, or the store cannot be written.
    """
    store = settings.models.store_path
    spec = f"{name}@{version}"
    split_spec(spec)
    model = look_until_settled(spec, settings, lambda: read_model(spec, settings).verified())
    with changing(store, name), writing(store):
        find_folder(model.spec, settings)  # it may have been removed meanwhile
        before = _promoted(name, settings)
        _check_task(model, before, settings)
        write_pointer(store / name, version)
    return model, before


def _check_task(model: ServedModel, before: str | None, settings: Settings) -> None:
    if before is None:
        return
    try:
        replaced = read_model(f"{model.card.name}@{before}", settings)
    except ModelError:
        return  # the way back from a damaged version stays open
    model.check_replaces(replaced)


def remove(
    name: str, version: str, settings: Settings, *, force: bool = False, say: Callable[[str], None] = lambda _: None
) -> Path:
    """Remove a version from the store, and its profiles; the folder that it was in.

    A worker that serves it goes on until it is started again.

    Args:
        name: of the model.
        version: of it.
        settings: where the store is.
        force: remove it even if it is promoted; then the name means nothing, unless it is shipped or one other is left.
        say: told before a build of the same name is waited for.

    Raises:
        ModelError: there is no such version, it is shipped, or promoted; or the store cannot be written.
    """
    store = settings.models.store_path
    split_spec(f"{name}@{version}")
    with locked(store, name, say), changing(store, name), writing(store):
        folder = _folder_of(name, version, settings)
        if not force and _promoted(name, settings) == version:
            raise ModelError(
                f"model {name}@{version} is promoted: the name {name} means it. Promote another version first "
                f"(`millrace models promote {name} VERSION`), or remove it all the same with --force."
            )
        if _pointer(store / name) == version:
            (store / name / POINTER_FILE).unlink()
        for profile in profiles_of(store, name, version):
            profile.unlink(missing_ok=True)
        # Renamed first: what is left of it after a crash does not look like a model, and the next pull clears it away.
        gone = store / f"{staging_prefix(name)}removed-{secrets.token_hex(4)}"
        folder.rename(gone)
        delete_folder(gone)
        with contextlib.suppress(OSError):  # other versions are in it
            folder.parent.rmdir()
    return folder


def _folder_of(name: str, version: str, settings: Settings) -> Path:
    """The folder of a version in the store, with a card that can be read or without."""
    folder = settings.models.store_path / name / version
    if folder.is_dir() and version not in RESERVED:
        return folder
    if version in versions_of(name, settings):
        raise ModelError(f"model {name}@{version} is shipped with Millrace and cannot be removed.")
    here = ", ".join(versions_of(name, settings)) or "none"
    raise ModelError(f"model {name} has no version {version!r} in {settings.models.store_path}. Here: {here}.")


def _promoted(name: str, settings: Settings) -> str | None:
    """What the name means; nothing while its pointer is damaged, which is no reason not to mend it."""
    try:
        return promoted_version(name, settings)
    except ModelError:
        return None


def _pointer(folder: Path) -> str | None:
    try:
        return read_pointer(folder)
    except ModelError:
        return None
