"""What a result store must do, and the one that forgets everything with its process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

__all__ = ["MemoryStore", "ResultStore"]


class ResultStore(Protocol):
    """Keeps values under keys, both bytes, for a while. Its methods block; one thread at a time calls them.

    Attributes:
        name: where it is, for people; without a password.
    """

    name: str

    def open(self) -> None:
        """Look whether it is there, before the first record.

        Raises:
            SettingsError: it can never be opened as it is set.
            ResultStoreError: it is away for now; other calls try again by themselves.
        """

    def get(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """The values of those of ``keys`` that are kept. Raises ResultStoreError, SettingsError."""
        ...

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keep ``values``: whatever becomes of this process when it returns. A key that is kept keeps its value.

        Raises ResultStoreError, SettingsError; then any of them may be kept or not.
        """

    def close(self) -> None:
        """Let go of it. Raises nothing."""


class MemoryStore:
    """A store in this process's memory: for tests, where it outlives an engine."""

    name = "memory"

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def open(self) -> None:
        """It is there."""

    def get(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Those of ``keys`` that were put."""
        return {key: self.values[key] for key in keys if key in self.values}

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keep ``values`` unless there are some already."""
        self.values = {**values, **self.values}

    def close(self) -> None:
        """Its values stay."""
