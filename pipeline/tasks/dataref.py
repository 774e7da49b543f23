"""The claim check: read an image that a record only points to, from folders the operator has named."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from schemas.errors import PrepareError

__all__ = ["read_dataref"]


def read_dataref(dataref: str, roots: Sequence[str], max_bytes: int) -> bytes:
    """Read the file that ``dataref`` names: an absolute path or a ``file://`` URL.

    Args:
        dataref: what the record says.
        roots: the folders (``images.dataref_roots``) it must lie in, after symbolic links are followed.
        max_bytes: larger files are refused unread.

    Raises:
        PrepareError: it lies outside the roots, is no regular file, is too large, or cannot be read.
    """
    if not roots:
        raise _refusal("dataref is not enabled on this worker: images.dataref_roots is empty")
    path = _allowed(_path(dataref), [Path(root).expanduser() for root in roots])
    try:
        return _read(path, max_bytes)
    except OSError as error:
        raise _refusal(f"dataref cannot be read: {error.strerror or error}") from error


def _refusal(message: str) -> PrepareError:
    return PrepareError(message, where="$.dataref")


def _path(dataref: str) -> Path:
    if "://" in dataref:
        try:
            url = urlsplit(dataref)
        except ValueError as error:
            raise _refusal(f"dataref is no URL: {error}") from error
        if url.scheme != "file" or url.netloc not in {"", "localhost"}:
            raise _refusal("dataref must be an absolute path or a file:// URL on this machine")
        dataref = unquote(url.path)
    path = Path(os.path.normpath(dataref))
    if "\0" in dataref or not path.is_absolute():
        raise _refusal("dataref must be an absolute path or a file:// URL on this machine")
    return path


def _allowed(path: Path, roots: Sequence[Path]) -> Path:
    """``path`` with its links followed. The first check, before the disk is asked, hides what exists elsewhere."""
    outside = _refusal("dataref is outside the folders in images.dataref_roots")
    if not any(path.is_relative_to(os.path.normpath(root)) for root in roots):
        raise outside
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise _refusal("dataref names no file that can be read") from error
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        raise outside
    return real


def _read(path: Path, max_bytes: int) -> bytes:
    # O_NONBLOCK: a named pipe must not hang the thread. O_NOFOLLOW: the checked path may have been swapped for a link.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise _refusal("dataref is not a regular file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)
    finally:
        os.close(handle)
    if len(data) > max_bytes:
        raise _refusal(f"dataref names a file of {status.st_size} bytes, more than images.max_bytes = {max_bytes}")
    return data
