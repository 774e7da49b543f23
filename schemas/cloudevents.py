"""CloudEvents 1.0 in Kafka: binary mode (``ce_*`` headers) and structured mode (a JSON event as the value).

Sources: the CloudEvents specification 1.0.2, its Kafka protocol binding and JSON event format, and its extensions
``dataref`` (claim check), ``expirytime`` and ``traceparent`` (distributed tracing). Any ``type`` and ``source`` are
accepted; unknown extension attributes are ignored, as the specification asks.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

from schemas.envelopes import Envelope
from schemas.errors import DecodeError, ValidationError
from schemas.headers import Headers, read_media_type, read_priority
from schemas.records import RawRecord
from schemas.validation import shorten

__all__ = ["STRUCTURED", "is_binary", "open_binary", "open_structured"]

STRUCTURED = "application/cloudevents+json"
_REQUIRED = ("specversion", "id", "source", "type")
# CloudEvents names have no underscore; ours is taken too, because people will write it.
_ALIASES = {"modelversion": "model_version", "model_version": "model_version"} | {
    name: name for name in ("id", "task", "model", "priority", "expirytime", "traceparent", "dataref")
}


def is_binary(headers: Headers) -> bool:
    """Whether the record is a CloudEvent in binary mode, complete or not."""
    return bool(headers.starting_with("ce_"))


def open_binary(record: RawRecord, headers: Headers) -> Envelope:
    """The envelope of an event in binary mode: attributes in ``ce_*`` headers, the value is the data.

    Raises:
        RecordError: a required attribute is missing or wrong, or a header is not UTF-8.
    """
    _check_required(lambda name: headers.text(f"ce_{name}"), "header ce_{}")
    named = {name: headers.text(f"ce_{name}") for name in _ALIASES if f"ce_{name}" in headers}
    attributes, places = _rename(named, "header ce_{}")
    if "traceparent" in headers and "traceparent" not in attributes:
        attributes["traceparent"] = headers.text("traceparent")  # OpenTelemetry's Kafka clients use the bare name
    declared = "content-type" if "content-type" in headers else "ce_datacontenttype"
    return Envelope(
        attributes=attributes,
        places=places,
        media_type=read_media_type(headers.text(declared), where=f"header {declared}"),
        media_place=f"header {declared}",
        data=record.value or None,
    )


def open_structured(event: Mapping[str, Any], headers: Headers) -> Envelope:
    """The envelope of an event in structured mode, ``event`` being the decoded JSON.

    Raises:
        RecordError: a required attribute is missing or wrong, or the data is.
    """
    _check_required(event.get, "$.{}")
    named = {name: event[name] for name in _ALIASES if event.get(name) is not None}
    attributes, places = _rename(named, "$.{}")
    if "traceparent" in headers and "traceparent" not in attributes:
        attributes["traceparent"] = headers.text("traceparent")
    media = event.get("datacontenttype")
    if media is not None and not isinstance(media, str):
        raise ValidationError(f"datacontenttype: expected text, got {shorten(media)}.", where="$.datacontenttype")
    data, place = _structured_data(event)
    return Envelope(
        attributes=attributes,
        places=places,
        media_type=read_media_type(media, where="$.datacontenttype"),
        media_place="$.datacontenttype",
        data=None if data in (b"", "") else data,
        data_place=place,
        root=place,
    )


def _check_required(read: Callable[[str], Any], place: str) -> None:
    for name in _REQUIRED:
        value, where = read(name), place.format(name)
        if not isinstance(value, str) or not value:
            raise DecodeError(
                f"CloudEvent without {name!r}: {', '.join(_REQUIRED)} are all needed, as text that is not empty.",
                where=where,
            )
        if name == "specversion" and value != "1.0":
            raise DecodeError(f"CloudEvents specversion {value[:40]!r} is not accepted. Use '1.0'.", where=where)


def _rename(named: Mapping[str, Any], place: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Attributes under our names, and their places."""
    attributes = {_ALIASES[name]: value for name, value in named.items()}
    places = {_ALIASES[name]: place.format(name) for name in named}
    if "priority" in attributes:
        attributes["priority"] = read_priority(attributes["priority"], where=places["priority"])
    return attributes, places


def _structured_data(event: Mapping[str, Any]) -> tuple[bytes | str | dict[str, Any] | None, str]:
    data, encoded = event.get("data"), event.get("data_base64")
    if data is not None and encoded is not None:
        raise DecodeError("both 'data' and 'data_base64' are set. Keep one.", where="$.data_base64")
    if encoded is not None:
        return _decode_base64(encoded), "$.data_base64"
    if data is not None and not isinstance(data, str | dict):
        raise DecodeError(f"data: expected an object or text, got {shorten(data)}.", where="$.data")
    return data, "$.data"


def _decode_base64(encoded: Any) -> bytes:
    if not isinstance(encoded, str):
        raise DecodeError(f"data_base64: expected text, got {shorten(encoded)}.", where="$.data_base64")
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except ValueError as error:
        raise DecodeError(f"data_base64 is not base64: {error}.", where="$.data_base64") from None
