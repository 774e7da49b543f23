"""Putting a model version into the store whole or not at all.

A version is built in a hidden folder of the store and renamed into place, so a crash, a full disk or Ctrl-C leaves
nothing that looks like a model. One lock a name: whoever comes second waits, then finds the model there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import ModelError

__all__ = ["install", "locked", "staging"]

MEGABYTE = 1_000_000


@contextlib.contextmanager
def locked(store: Path, name: str) -> Iterator[None]:
    """Hold the only pull of ``name`` in ``store``; waits for another process to finish its own.

    Raises:
        ModelError: the store cannot be made or written.
    """
    with contextlib.ExitStack() as stack:
        try:
            store.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((store / f".{name}.lock").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise ModelError(
                f"the model store {store} cannot be written: {error.strerror}. Set models.store to another folder."
            ) from error
        yield


@contextlib.contextmanager
def staging(store: Path, name: str, disk_bytes: int) -> Iterator[Path]:
    """A hidden folder of the store to build ``name`` in, removed at the end; hold :func:`locked` around it.

    What a killed pull left behind is removed first.

    Raises:
        ModelError: less than ``disk_bytes`` are free, or the disk fills up meanwhile.
    """
    for left in store.glob(f".{name}-staging-*"):
        shutil.rmtree(left, ignore_errors=True)
    free = shutil.disk_usage(store).free
    if free < disk_bytes:
        raise ModelError(
            f"the model store {store} has {free // MEGABYTE} MB free, and building {name} takes "
            f"{disk_bytes // MEGABYTE} MB for a while. Free some, or set models.store to another folder."
        )
    folder = store
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{name}-staging-", dir=store))
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


def install(built: Path, target: Path) -> None:
    """Move the finished folder ``built`` to ``target``, in the place of what was there. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    built.chmod(0o755)
    if target.exists():
        # A worker that has the old files open keeps them; between the two renames the name is missing for a moment.
        target.rename(built.parent / "replaced")
    built.rename(target)
    _sync(target.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
