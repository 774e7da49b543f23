"""What `millrace up` leaves on disk for `down` and `status`: one file, and a lock that ends with its holder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct
from platformdirs import user_state_path

from console.processes import ProcessId
from pipeline.errors import MillraceError

__all__ = ["AlreadyUpError", "StateFile", "UpState", "WorkerState"]


class AlreadyUpError(MillraceError):
    """Another `millrace up` of this user holds the lock."""


class WorkerState(Struct, frozen=True, kw_only=True):
    """One worker of the supervisor. ``restarts`` counts how often it died and was started again."""

    number: int
    process: ProcessId
    ready: bool = False
    models: tuple[str, ...] = ()
    metrics_port: int | None = None
    restarts: int = 0


class UpState(Struct, frozen=True, kw_only=True):
    """What is up. ``started_broker``: the embedded broker was started by this `up` and ends with it."""

    supervisor: ProcessId
    bootstrap_servers: str
    started_broker: bool
    ready: bool = False
    workers: tuple[WorkerState, ...] = ()


class StateFile:
    """The state file of this user.

    Args:
        folder: where it is kept; ``None`` is the user's state folder (XDG_STATE_HOME on Linux).
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or user_state_path("millrace")
        self.path = self.folder / "up.json"
        self.log = self.folder / "up.log"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the one `millrace up` there is. Raises AlreadyUpError, or MillraceError for an unusable folder."""
        with self._open_lock() as stream:
            try:
                fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyUpError("`millrace up` is already running.") from None
            yield

    def held(self) -> bool:
        """Whether a `millrace up` runs."""
        if not self.folder.is_dir():
            return False
        try:
            with self.locked():
                return False
        except AlreadyUpError:
            return True

    def read(self) -> UpState | None:
        """What the file says, which may be of an `up` that was killed; ``None`` without a readable one."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=UpState)
        except (OSError, msgspec.MsgspecError):
            return None

    def write(self, state: UpState) -> None:
        """Replace the file in one step."""
        fresh = self.path.with_suffix(f".{os.getpid()}.tmp")
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=2))
        fresh.replace(self.path)

    def _open_lock(self) -> IO[bytes]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return (self.folder / "up.lock").open("a+b")
        except OSError as error:
            raise MillraceError(
                f"{self.folder}: cannot be used: {error.strerror or error}. Set XDG_STATE_HOME to a folder that can."
            ) from error

    def remove(self) -> None:
        """Forget it."""
        with suppress(FileNotFoundError):
            self.path.unlink()
