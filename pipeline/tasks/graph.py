"""A graph of a task: opened when the device thread wants it, and again when its session is lost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.runtime.session import Backend, Floats, Session, SessionError

__all__ = ["Graph"]


class Graph:
    """A session to be.

    Args:
        path: the ONNX file.
        backend: opens it.
    """

    def __init__(self, path: Path, backend: Backend) -> None:
        self.path = path
        self._backend = backend
        self._session: Session | None = None

    def open(self) -> str:
        """Load the graph; the provider's name. Raises ModelError."""
        self._session = None  # there may be no memory for two
        self._session = self._backend.open_session(self.path)
        return self._session.provider

    def run(self, feeds: Mapping[str, npt.NDArray[Any]], *outputs: str) -> list[Floats]:
        """The named outputs of one batch, each float32 [N, ...].

        Raises:
            ModelError: the graph has no such output.
            SessionError: the run failed, or the graph is not open.
        """
        if self._session is None:
            raise SessionError("the session is not open")
        values = self._session.run(feeds)
        if missing := [name for name in outputs if name not in values]:
            raise ModelError(f"{self.path}: the graph has no output {missing[0]!r}, only {', '.join(values)}.")
        return [values[name] for name in outputs]
