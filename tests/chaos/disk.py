"""A small disk for the result store that the workers share, which can be filled and freed."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

__all__ = ["SIZE_BYTES", "Disk"]

SIZE_BYTES = 32 * 1024 * 1024
BLOCK_BYTES = 4_096
TIMEOUT_S = 10.0


class Disk:
    """A tmpfs at ``folder``, if this process may mount one; else ``folder`` is as any other and never full.

    Attributes:
        refused: why it is no disk of its own; empty if it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refused = ""

    def open(self) -> None:
        """Mount it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.refused = _command("mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(self.folder))

    def close(self) -> None:
        """Unmount it; nobody may use it any more."""
        if not self.refused:
            _command("umount", str(self.folder))

    def fill(self) -> int:
        """Take all the space that is left; its bytes."""
        size = 0
        with (self.folder / "ballast").open("wb", buffering=0) as ballast:
            try:
                while size < SIZE_BYTES:
                    size += ballast.write(bytes(BLOCK_BYTES))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        return size

    def free(self) -> None:
        """Give it back."""
        (self.folder / "ballast").unlink(missing_ok=True)


def _command(*words: str) -> str:
    """Run a command: empty, or why it failed."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip() or f"{words[0]} ended with {done.returncode}"
