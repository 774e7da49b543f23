"""Fetching one jar by its Maven coordinate: the Protocol, the real one on ``jgo``, and a fake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from pipeline.errors import BrokerError, install_extra

__all__ = ["FakeFetcher", "JarFetcher", "JgoFetcher"]

TIMEOUT_S = 20


class JarFetcher(Protocol):
    """What brings a jar. Called from several threads at once."""

    def fetch(self, coordinate: str, folder: Path) -> Path:
        """Put the jar of ``group:artifact:version`` somewhere under ``folder`` and give its path.

        Raises:
            OSError: it cannot be reached, or not be written; trying again may help when ``errno`` says no disk error.
            BrokerError: trying again would not help.
        """
        ...


class JgoFetcher:
    """Fetches with the pure-Python Maven client ``jgo``, from the repositories its own settings file names."""

    def fetch(self, coordinate: str, folder: Path) -> Path:
        """See :class:`JarFetcher`."""
        try:
            from jgo.config import GlobalSettings
            from jgo.maven import MavenContext
        except ImportError as error:
            raise BrokerError(
                f"The embedded broker fetches Kafka with the package jgo, which cannot be imported ({error}): "
                f"{install_extra('broker')} (or set KAFKA_BOOTSTRAP_SERVERS to a Kafka that is running)."
            ) from error
        group, artifact, version = coordinate.split(":")
        maven = MavenContext(repo_cache=folder, timeout=TIMEOUT_S)
        maven.remote_repos.update(GlobalSettings.load().repositories)
        try:
            return Path(maven.project(group, artifact).at_version(version).artifact().resolve())
        except (RuntimeError, ValueError) as error:  # not there, or its SHA-1 is wrong: jgo has no finer classes
            raise OSError(f"{coordinate}: {error}") from error


class FakeFetcher:
    """Serves jars from memory. A coordinate mapped to an exception raises it; ``fetched`` lists what was asked for."""

    def __init__(self, jars: Mapping[str, bytes | Exception]) -> None:
        self.jars = dict(jars)
        self.fetched: list[str] = []

    def fetch(self, coordinate: str, folder: Path) -> Path:
        """See :class:`JarFetcher`."""
        self.fetched.append(coordinate)
        content = self.jars.get(coordinate, OSError(f"{coordinate}: no such jar"))
        if isinstance(content, Exception):
            raise content
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "fake.jar"
        file.write_bytes(content)
        return file
