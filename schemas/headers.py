"""Kafka headers as text: names without case, values as UTF-8, the last of a name counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from schemas.errors import ValidationError
from schemas.records import Header
from schemas.validation import decode_text

__all__ = ["PLAIN_ATTRIBUTES", "Headers", "read_media_type", "read_priority"]

# Attributes of a record that is not a CloudEvent may come as headers of these names.
PLAIN_ATTRIBUTES = ("id", "task", "model", "model_version", "priority", "expirytime", "traceparent", "dataref")


class Headers:
    """A look-up of a record's headers. Headers without a value count as absent."""

    def __init__(self, headers: Iterable[Header]) -> None:
        self._values = {name.lower(): value for name, value in headers if value is not None}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def raw(self, name: str) -> bytes | None:
        """The value's bytes, or ``None``."""
        return self._values.get(name)

    def text(self, name: str) -> str | None:
        """The value as text, or ``None``. Raises DecodeError when it is not UTF-8."""
        value = self._values.get(name)
        return None if value is None else decode_text(value, where=f"header {name}")

    def starting_with(self, prefix: str) -> list[str]:
        """The names that start with ``prefix``."""
        return [name for name in self._values if name.startswith(prefix)]


def read_media_type(text: str | None, *, where: str) -> str:
    """The media type of a content type, in lower case and without parameters; ``""`` when there is none.

    Raises:
        ValidationError: a charset other than UTF-8 is declared.
    """
    media, *parameters = (text or "").lower().split(";")
    for parameter in parameters:
        name, _, value = parameter.strip().partition("=")
        if name.strip() == "charset" and value.strip(" \"'") not in {"utf-8", "utf8", "us-ascii"}:
            raise ValidationError(f"charset {value.strip()!r} is not accepted. Send text as UTF-8.", where=where)
    return media.strip()


def read_priority(value: Any, *, where: str) -> Any:
    """A priority out of a header, where numbers are text. Anything that is not text is returned unchanged.

    Raises:
        ValidationError: the text is not a whole number from 0 to 9.
    """
    if not isinstance(value, str):
        return value
    if len(value) != 1 or value not in "0123456789":
        raise ValidationError(f"priority: expected a whole number from 0 to 9, got {value[:40]!r}.", where=where)
    return int(value)
