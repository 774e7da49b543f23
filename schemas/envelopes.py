"""A record with its envelope opened: what it says about itself apart, its data still encoded."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from schemas.headers import PLAIN_ATTRIBUTES, Headers, read_media_type, read_priority
from schemas.records import RawRecord

__all__ = ["Envelope", "open_plain"]


class Envelope(Struct, frozen=True, kw_only=True):
    """Attributes and data of one record.

    Attributes:
        attributes: fields of ``Attributes`` (and ``dataref``) that the envelope sets, by name. They win over the same
            fields in the data.
        places: where each of them stands, such as ``header ce_id``, for error messages.
        media_type: the declared media type of the data, or ``""``.
        media_place: where it was declared.
        data: the payload: bytes, text, an object already decoded from JSON, or ``None`` when there is none.
        data_place: where the payload stands, such as ``value`` or ``$.data``.
        root: the JSON path of the payload's fields.
    """

    attributes: dict[str, Any]
    places: dict[str, str]
    media_type: str = ""
    media_place: str = "header content-type"
    data: bytes | str | dict[str, Any] | None = None
    data_place: str = "value"
    root: str = "$"


def open_plain(record: RawRecord, headers: Headers) -> Envelope:
    """The envelope of a record that is no CloudEvent: its attributes are plain headers.

    Raises:
        RecordError: a header is not UTF-8 or not valid.
    """
    places = {name: f"header {name}" for name in PLAIN_ATTRIBUTES if name in headers}
    attributes: dict[str, Any] = {name: headers.text(name) for name in places}
    if "priority" in attributes:
        attributes["priority"] = read_priority(attributes["priority"], where=places["priority"])
    return Envelope(
        attributes=attributes,
        places=places,
        media_type=read_media_type(headers.text("content-type"), where="header content-type"),
        data=record.value or None,
    )
