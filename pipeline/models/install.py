"""Putting a model version into the store whole or not at all.

A version is built in a hidden folder of the store and renamed into place, so a crash, a full disk or Ctrl-C leaves
nothing that looks like a model. Two locks a name: a long one while something is built, so that whoever comes second
waits and then finds the version there; and a short one while a version or the pointer takes its place, so that nobody
who promotes a version, or goes back to one, waits for a build.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.models.cardfile import CARD_FILE
from pipeline.models.pointer import RESERVED, read_pointer, write_pointer
from pipeline.models.replacing import put_back, replace_folder
from pipeline.models.shelves import SHIPPED

__all__ = ["changing", "install", "locked", "staging", "staging_prefix", "writing"]

MEGABYTE = 1_000_000


@contextlib.contextmanager
def locked(store: Path, name: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the only build or removal of ``name`` in ``store``; says so before it waits for another process.

    Raises:
        ModelError: the store cannot be made or written.
    """
    with _held(store, f".{name}.lock", lambda: say(f"waiting for another command on {name}")):
        with changing(store, name):
            pass  # puts back what a killed command left aside, before anybody asks which versions there are
        yield


@contextlib.contextmanager
def changing(store: Path, name: str) -> Iterator[None]:
    """Hold the only change of which versions ``name`` has and which it means, for milliseconds.

    What a killed change left half done is ended first (:mod:`pipeline.models.replacing`).

    Raises:
        ModelError: the store cannot be made or written.
    """
    with _held(store, f".{name}@pointer.lock", lambda: None):
        with writing(store):
            put_back(store / name)
        yield


@contextlib.contextmanager
def writing(store: Path) -> Iterator[None]:
    """Raise ModelError, with the way out, where an OSError says that ``store`` cannot be written."""
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"the model store {store} cannot be written: {error.strerror or error}. Set models.store to another folder."
        ) from error


@contextlib.contextmanager
def staging(store: Path, name: str, disk_bytes: int) -> Iterator[Path]:
    """A hidden folder of the store to build ``name`` in, removed at the end; hold :func:`locked` around it.

    What a killed pull left behind is removed first.

    Raises:
        ModelError: less than ``disk_bytes`` are free, or the disk fills up meanwhile.
    """
    for left in store.glob(f"{staging_prefix(name)}*"):
        shutil.rmtree(left, ignore_errors=True)
    free = shutil.disk_usage(store).free
    if free < disk_bytes:
        raise ModelError(
            f"the model store {store} has {free // MEGABYTE} MB free, and building {name} takes "
            f"{disk_bytes // MEGABYTE} MB for a while. Free some, or set models.store to another folder."
        )
    folder = store
    try:
        folder = Path(tempfile.mkdtemp(prefix=staging_prefix(name), dir=store))
        yield folder
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(
                f"the disk of {store} is full: {name} was not installed, nothing is left of it."
            ) from error
        raise ModelError(f"{name} was not installed: {error}") from error
    finally:
        if folder != store:
            shutil.rmtree(folder, ignore_errors=True)


def staging_prefix(name: str) -> str:
    """How everything begins that is on its way into the store, or out of it; no model's name has an @."""
    return f".{name}@staging-"


def install(built: Path, target: Path) -> None:
    """Move the finished folder ``built`` to ``target``, in the place of what was there.

    A model's first version is promoted. Otherwise the pointer stays: installing never changes what is served.

    Raises:
        ModelError: a version cannot be named so.
        OSError: it cannot be moved.
    """
    if target.name in RESERVED:
        raise ModelError(f"a version cannot be named {target.name!r}: that is something else's place in the store.")
    target.parent.mkdir(parents=True, exist_ok=True)
    built.chmod(0o755)
    with changing(target.parent.parent, target.parent.name):
        unpinned = _unpinned(target.parent)
        if unpinned is not None and len(unpinned) == 1:  # from before there were pointers: the name goes on meaning it
            write_pointer(target.parent, unpinned[0])
        replace_folder(built, target)
        if unpinned == []:
            write_pointer(target.parent, target.name)


@contextlib.contextmanager
def _held(store: Path, lock: str, before_waiting: Callable[[], None]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with writing(store):
            store.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((store / lock).open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                before_waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _unpinned(folder: Path) -> list[str] | None:
    """The versions of a model of which no pointer says which one its name means; ``None`` where one does.

    Raises:
        ModelError: the pointer is damaged.
    """
    if any(read_pointer(shelf) for shelf in (folder, SHIPPED / folder.name)):
        return None
    # What begins with a dot is none: an old one that could not be deleted keeps its card.
    return [card.parent.name for card in folder.glob(f"[!.]*/{CARD_FILE}")]
