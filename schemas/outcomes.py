"""Outcomes and streamed pieces on the wire: a JSON value, and headers that make it a CloudEvent in binary mode."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeVar

import msgspec

from schemas.errors import DecodeError, RecordError
from schemas.messages import InferenceRequest, ModelInfo, Outcome, OutcomeError, Source, TokenPiece, outcome_id
from schemas.records import RawRecord

__all__ = [
    "OUTCOME_TYPE",
    "TOKEN_TYPE",
    "decode_outcome",
    "decode_token",
    "encode_outcome",
    "encode_token",
    "error_outcome",
    "expired_outcome",
    "key_text",
]

OUTCOME_TYPE = "millrace.outcome.v1"
TOKEN_TYPE = "millrace.token.v1"  # noqa: S105
MAX_KEY_CHARS = 1_024
MAX_MESSAGE_CHARS = 2_000

_T = TypeVar("_T", Outcome, TokenPiece)
_Encoded = tuple[bytes, list[tuple[str, bytes]]]


def key_text(key: bytes | None) -> str | None:
    """A record's key as text: UTF-8 as it is, other bytes as ``base64:...``, a very long key as ``sha256:...``."""
    if key is None:
        return None
    if len(key) > MAX_KEY_CHARS:
        return f"sha256:{hashlib.sha256(key).hexdigest()}"
    try:
        return key.decode("utf-8")
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(key).decode('ascii')}"


def error_outcome(
    record: RawRecord,
    error: RecordError,
    request: InferenceRequest | None,
    model: ModelInfo | None = None,
    *,
    now_ms: int,
) -> Outcome:
    """The outcome of a record that cannot be served.

    Args:
        record: the record as it was read.
        error: what was wrong with it.
        request: the decoded request, or ``None`` when decoding failed; then the error tells the caller's id if known.
        model: the model it failed under, or ``None`` when it reached none.
        now_ms: the time of day.
    """
    request_id = request.id if request else error.request_id or record.name
    detail = OutcomeError(
        code=error.code, message=error.message[:MAX_MESSAGE_CHARS], where=error.where, stage=error.stage
    )
    return Outcome(
        id=outcome_id(record.source, model.digest if model else ""),
        status="error",
        request_id=request_id,
        source=record.source,
        created_at_ms=now_ms,
        key=key_text(record.key),
        model=model,
        error=detail,
        traceparent=request.traceparent if request else error.traceparent,
    )


def expired_outcome(request: InferenceRequest, now_ms: int, model: ModelInfo | None = None) -> Outcome:
    """The outcome of a request whose ``expirytime`` passed before its work was done."""
    late_ms = now_ms - (request.expires_at_ms if request.expires_at_ms is not None else now_ms)
    detail = OutcomeError(
        code="expired",
        message=f"the deadline passed {late_ms:,} ms before the work was done. Send it earlier or allow more time.",
        where="expirytime",
        stage="schedule",
    )
    return Outcome(
        id=outcome_id(request.source, model.digest if model else ""),
        status="expired",
        request_id=request.id,
        source=request.source,
        created_at_ms=now_ms,
        key=key_text(request.key),
        model=model,
        error=detail,
        traceparent=request.traceparent,
    )


def encode_outcome(outcome: Outcome) -> _Encoded:
    """Value and headers of an outcome's record; its topic and key are the publisher's."""
    headers = _headers(outcome.id, OUTCOME_TYPE, outcome.source, outcome.request_id)
    headers.append(("ce_time", _rfc3339(outcome.created_at_ms)))
    if outcome.traceparent is not None:
        headers.append(("traceparent", outcome.traceparent.encode()))
    return msgspec.json.encode(outcome), headers


def encode_token(piece: TokenPiece) -> _Encoded:
    """Value and headers of a streamed piece's record. Its event id is ``<outcome id>/<index>``."""
    event_id = f"{piece.outcome_id}/{piece.index}"
    return msgspec.json.encode(piece), _headers(event_id, TOKEN_TYPE, piece.source, piece.request_id)


def decode_outcome(value: bytes) -> Outcome:
    """The outcome in a record's value. Raises DecodeError when it is none."""
    return _decode(value, Outcome)


def decode_token(value: bytes) -> TokenPiece:
    """The streamed piece in a record's value. Raises DecodeError when it is none."""
    return _decode(value, TokenPiece)


def _decode(value: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DecodeError(f"not {kind.__name__} JSON: {error}.") from None


def _headers(event_id: str, event_type: str, source: Source, subject: str) -> list[tuple[str, bytes]]:
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_source", f"/millrace/{source.topic}".encode()),
        ("ce_type", event_type.encode()),
        ("ce_subject", subject.encode()),
        ("content-type", b"application/json"),
    ]


def _rfc3339(at_ms: int) -> bytes:
    seconds, milliseconds = divmod(at_ms, 1_000)
    return b"%s.%03dZ" % (_until_seconds(seconds), milliseconds)


@lru_cache(maxsize=2)  # outcomes of one second come together
def _until_seconds(at_s: int) -> bytes:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
