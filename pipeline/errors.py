"""Errors of the worker as a whole; errors of one record are in :mod:`schemas.errors`.

Tree::

    MillraceError            everything a caller may want to catch; the message says what, where, and what to do
      SettingsError          a setting is unknown, of the wrong type or out of bounds; nothing was started
      ModelError             a model is missing, damaged or unfit; nothing was started
      EngineError            the engine cannot go on; its records stay uncommitted
      TransportError         Kafka cannot be reached, or a delivery failed; nothing was committed past it
      BrokerError            the embedded broker cannot be fetched, started or stopped
      ResultStoreError       the result store does not serve; no record fails of it, and nobody outside sees it
"""

from __future__ import annotations

__all__ = [
    "BrokerError",
    "EngineError",
    "MillraceError",
    "ModelError",
    "ResultStoreError",
    "SettingsError",
    "TransportError",
    "install_extra",
]


class MillraceError(Exception):
    """Base of the errors that the `millrace` command prints as one message, without a traceback."""


class SettingsError(MillraceError):
    """A setting is unknown, of the wrong type or out of bounds."""


class ModelError(MillraceError):
    """A model is missing, damaged, or unfit for this machine."""


class EngineError(MillraceError):
    """The engine cannot serve any more; the process ends with its records uncommitted."""


class TransportError(MillraceError):
    """Kafka cannot be reached, or an outcome could not be delivered."""


class BrokerError(MillraceError):
    """The embedded broker cannot be fetched, started or stopped."""


class ResultStoreError(MillraceError):
    """The result store is away, full, locked or damaged; records are computed without it."""


def install_extra(extra: str) -> str:
    """What messages say of an extra that is missing; Millrace itself is on no package index."""
    return f"install Millrace's extra `{extra}`: pip install '.[{extra}]' in its folder"
