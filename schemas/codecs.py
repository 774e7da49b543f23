"""From a record's bytes to an ``InferenceRequest``: every encoding of docs/wire.md, told apart and checked.

Steps: bound the sizes, open the envelope (CloudEvents or plain headers), read the data's fields (registry framing,
JSON, text or an image), lay the envelope's attributes over them, check all of it against one struct.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from schemas.bodies import Attributes, ImageBody, PromptBody
from schemas.cloudevents import STRUCTURED, is_binary, open_binary, open_structured
from schemas.envelopes import Envelope, open_plain
from schemas.errors import DecodeError, RecordError, ValidationError
from schemas.headers import Headers, read_media_type
from schemas.inputs import image_input, text_input
from schemas.limits import check_size
from schemas.messages import InferenceRequest, Task
from schemas.payloads import Fields, read_image, read_prompt
from schemas.records import RawRecord
from schemas.registry import RegistryDecoder, is_framed, schema_name
from schemas.tasks import TASKS, Kind
from schemas.tracing import valid_traceparent
from schemas.validation import check_names, convert, decode_json, shorten

__all__ = ["Decoder"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Decoder:
    """Decodes the records of one input topic. Holds no state between records; safe to use from several threads.

    Args:
        kind: what the topic's records hold; one that names a task of the other kind is refused.
        registry: decodes Schema Registry framing; ``None`` refuses it with a message.
        max_bytes: bound of a record's value.
    """

    def __init__(self, kind: Kind, *, registry: RegistryDecoder | None = None, max_bytes: int) -> None:
        self._kind: Kind = kind
        self._registry = registry
        self._max_bytes = max_bytes

    def decode(self, record: RawRecord) -> InferenceRequest:
        """The request in ``record``.

        Asks the schema registry over the network when a value is framed and its schema is new (then it is cached).

        Raises:
            RecordError: the record is not a request; its ``request_id`` and ``traceparent`` are set where known.
            RegistryError: the registry cannot be asked; the record stays to be decoded later.
        """
        headers = Headers(record.headers)
        claims: dict[str, Any] = {}
        try:
            check_size(record, self._max_bytes)
            return self._decode(record, headers, claims)
        except RecordError as error:
            # The caller looks for its own id, above all when something went wrong.
            claims = _header_claims(headers) | claims
            error.request_id = _claimed_id(claims)
            error.traceparent = valid_traceparent(claims.get("traceparent"))
            raise

    def _decode(self, record: RawRecord, headers: Headers, claims: dict[str, Any]) -> InferenceRequest:
        envelope = _open_envelope(record, headers)
        claims.update(envelope.attributes)
        fields = self._read_fields(envelope, record, headers)
        if "specversion" in fields.values:  # an event in structured mode that was sent without its content type
            envelope = open_structured(fields.values, headers)
            claims.update(envelope.attributes)
            fields = self._read_fields(envelope, record, headers)
        merged = Fields(
            values={name: value for name, value in fields.values.items() if value is not None} | envelope.attributes,
            places=fields.places | envelope.places,
        )
        claims.update(merged.values)
        return self._build(merged, envelope.root, record)

    def _read_fields(self, envelope: Envelope, record: RawRecord, headers: Headers) -> Fields:
        if envelope.data is None:
            return _without_data(envelope, record)
        if envelope.data_place == "value" and is_framed(record, headers):
            envelope = self._unframe(envelope, record)
        return read_prompt(envelope) if self._kind == "prompts" else read_image(envelope)

    def _unframe(self, envelope: Envelope, record: RawRecord) -> Envelope:
        name = schema_name(record)
        if self._registry is None:
            raise DecodeError(
                f"the value is in Schema Registry framing (schema {name}), but no registry is configured. "
                "Set kafka.schema_registry_url, or send plain JSON."
            )
        data = self._registry.decode(record)
        if not isinstance(data, dict | str | bytes):
            raise DecodeError(f"schema {name}: expected a record, text or bytes, got {shorten(data)}.")
        return msgspec.structs.replace(envelope, data=data, media_type="")

    def _build(self, fields: Fields, root: str, record: RawRecord) -> InferenceRequest:
        kind = PromptBody if self._kind == "prompts" else ImageBody
        check_names(fields.values, kind.__struct_fields__, places=fields.places, root=root)
        body = convert(fields.values, kind, places=fields.places, root=root)
        read = text_input if self._kind == "prompts" else image_input
        return InferenceRequest(
            id=body.id or record.name,
            source=record.source,
            task=self._task(body, fields, root, record.topic),
            input=read(body, fields, root),
            key=record.key,
            model=body.model,
            model_version=body.model_version,
            priority=body.priority,
            expires_at_ms=None if body.expirytime is None else (body.expirytime - _EPOCH) // timedelta(milliseconds=1),
            created_at_ms=record.timestamp_ms,
            traceparent=valid_traceparent(body.traceparent),
            parameters=body.parameters,
        )

    def _task(self, body: Attributes, fields: Fields, root: str, topic: str) -> Task | None:
        """The task that is asked for; ``None`` leaves it to the model that is."""
        known = TASKS[self._kind]
        if body.task is None:
            return None if body.model else known[0]
        if body.task not in known:
            raise ValidationError(
                f"task {body.task!r} does not belong on {topic}, which takes {', '.join(known)}.",
                where=fields.places.get("task", f"{root}.task"),
            )
        return body.task


def _open_envelope(record: RawRecord, headers: Headers) -> Envelope:
    media_type = read_media_type(headers.text("content-type"), where="header content-type")
    if media_type.startswith("application/cloudevents"):
        return _open_declared_event(record, headers, media_type)
    return open_binary(record, headers) if is_binary(headers) else open_plain(record, headers)


def _open_declared_event(record: RawRecord, headers: Headers, media_type: str) -> Envelope:
    if media_type != STRUCTURED:
        raise DecodeError(
            f"{media_type[:80]!r} is not accepted. Send one event a record, as {STRUCTURED}.",
            where="header content-type",
        )
    if not record.value:
        raise _nothing_in(record)
    event = decode_json(record.value, where="value")
    if not isinstance(event, dict):
        raise DecodeError(f"expected a CloudEvent, a JSON object, got {shorten(event)}.")
    return open_structured(event, headers)


def _without_data(envelope: Envelope, record: RawRecord) -> Fields:
    """The fields of a record without data: none, but a ``dataref`` in the envelope makes it a request."""
    if envelope.attributes.get("dataref"):
        return Fields(values={})
    if envelope.data_place != "value":
        raise DecodeError("the event has no data. Send a prompt or an image.", where="$.data")
    raise _nothing_in(record)


def _nothing_in(record: RawRecord) -> DecodeError:
    what = "null (a tombstone)" if record.value is None else "empty"
    return DecodeError(f"the value is {what}. Send a prompt or an image.")


def _header_claims(headers: Headers) -> dict[str, Any]:
    """The caller's id and trace as far as headers tell them, whatever else is wrong with the record."""
    claims = {}
    for name in ("id", "traceparent"):
        raw = headers.raw(f"ce_{name}") or headers.raw(name) or b""
        claims[name] = raw.decode("utf-8", errors="replace")
    return claims


def _claimed_id(claims: dict[str, Any]) -> str | None:
    claimed = claims.get("id")
    return claimed[:1_024] if isinstance(claimed, str) and claimed else None
