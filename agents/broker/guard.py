"""The guard of an owned broker, as its owner sees it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from agents.broker.processes import GUARD_DISMISSED, spawn_guard

__all__ = ["Guard"]


class Guard:
    """A small process that ends the nodes when this one ends, however it ends.

    Args:
        properties: the nodes' ``server.properties``; nodes started later with these files are guarded too.
        grace_s: how long they may take to end before they are killed.
        output: the file for what the guard writes, normally nothing.
    """

    def __init__(self, properties: Sequence[Path], grace_s: float, output: Path) -> None:
        self.owner = os.getpid()
        self._pid, self._pipe = spawn_guard(properties, grace_s, output)

    @property
    def is_mine(self) -> bool:
        """Whether this process is the owner, and not a fork of it."""
        return self.owner == os.getpid()

    def dismiss(self) -> None:
        """Let the guard go without ending anything."""
        with suppress(BrokenPipeError):
            os.write(self._pipe, GUARD_DISMISSED)
        os.close(self._pipe)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
