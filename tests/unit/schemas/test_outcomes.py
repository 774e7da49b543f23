from __future__ import annotations

import hashlib
from typing import Any

import pytest

from schemas.errors import DecodeError, ModelNotFoundError, ValidationError
from schemas.messages import (
    InferenceRequest,
    ModelInfo,
    Outcome,
    Source,
    TextInput,
    TextOutput,
    TokenPiece,
    Usage,
    outcome_id,
)
from schemas.outcomes import (
    decode_outcome,
    decode_token,
    encode_outcome,
    encode_token,
    error_outcome,
    expired_outcome,
    key_text,
)
from tests.unit.schemas.samples import TRACE, decode_prompt, record, refusal

SOURCE = Source(topic="inference.prompts", partition=2, offset=7)
MODEL = ModelInfo(name="m", version="1", digest="ab" * 32, precision="int8", provider="cpu")


def request(**fields: Any) -> InferenceRequest:
    return InferenceRequest(id="r-1", source=SOURCE, task="text-generation", input=TextInput(prompt="x"), **fields)


def test_an_outcome_survives_its_encoding_and_is_a_binary_cloudevent() -> None:
    outcome = Outcome(
        id=outcome_id(SOURCE, MODEL.digest),
        status="ok",
        request_id="r-é",
        source=SOURCE,
        created_at_ms=1_700_000_000_123,
        key="k",
        model=MODEL,
        output=TextOutput(text="Hello", finish_reason="stop"),
        usage=Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3),
        traceparent=TRACE,
    )
    value, headers = encode_outcome(outcome)
    assert decode_outcome(value) == outcome
    assert dict(headers) == {
        "ce_specversion": b"1.0",
        "ce_id": outcome.id.encode(),
        "ce_source": b"/millrace/inference.prompts",
        "ce_type": b"millrace.outcome.v1",
        "ce_subject": "r-é".encode(),
        "ce_time": b"2023-11-14T22:13:20.123Z",
        "content-type": b"application/json",
        "traceparent": TRACE.encode(),
    }


def test_a_token_survives_its_encoding_and_its_event_id_counts_up() -> None:
    piece = TokenPiece(outcome_id="o", request_id="r", source=SOURCE, index=3, text="lo", finish_reason="length")
    value, headers = encode_token(piece)
    assert decode_token(value) == piece
    assert dict(headers)["ce_id"] == b"o/3"
    assert dict(headers)["ce_type"] == b"millrace.token.v1"


@pytest.mark.parametrize("value", [b"", b"{}", b"[" * 100_000, b'{"id": 5}', b"\xff"])
def test_what_is_no_outcome_is_refused(value: bytes) -> None:
    with pytest.raises(DecodeError, match="not Outcome JSON"):
        decode_outcome(value)
    with pytest.raises(DecodeError, match="not TokenPiece JSON"):
        decode_token(value)


def test_an_undecodable_record_gets_an_outcome_under_its_own_name() -> None:
    bad = record(b"\xff")
    outcome = error_outcome(bad, refusal(decode_prompt, bad.value), None, now_ms=5)
    assert (outcome.status, outcome.request_id, outcome.key) == ("error", "inference.prompts/2/7", "k")
    assert outcome.id == outcome_id(SOURCE)
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.where, outcome.error.stage) == ("decode_error", "value", "admit")
    assert decode_outcome(encode_outcome(outcome)[0]) == outcome


def test_the_callers_id_and_trace_are_kept_when_the_rest_was_wrong() -> None:
    headers = {"traceparent": TRACE.encode()}
    error = refusal(decode_prompt, b'{"id": "mine", "prompt": ""}', headers)
    outcome = error_outcome(record(b""), error, None, now_ms=5)
    assert (outcome.request_id, outcome.traceparent) == ("mine", TRACE)


def test_an_error_after_decoding_names_the_request_and_the_model() -> None:
    error = ModelNotFoundError("no such model", where="$.model")
    outcome = error_outcome(record(b"x"), error, request(traceparent=TRACE), MODEL, now_ms=5)
    assert (outcome.request_id, outcome.traceparent, outcome.model) == ("r-1", TRACE, MODEL)
    assert outcome.id == outcome_id(SOURCE, MODEL.digest)
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.stage) == ("model_not_found", "prepare")


def test_a_message_is_bounded() -> None:
    outcome = error_outcome(record(b"x"), ValidationError("x" * 9_999), None, now_ms=5)
    assert outcome.error is not None
    assert len(outcome.error.message) == 2_000


def test_an_expired_outcome_says_how_late_it_was() -> None:
    outcome = expired_outcome(request(expires_at_ms=1_000, key=b"k"), 3_500, MODEL)
    assert (outcome.status, outcome.created_at_ms, outcome.key) == ("expired", 3_500, "k")
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.where) == ("expired", "expirytime")
    assert "2,500 ms" in outcome.error.message


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (None, None),
        (b"", ""),
        ("chat-é".encode(), "chat-é"),
        (b"\xff\x00", "base64:/wA="),
        (b"x" * 1_024, "x" * 1_024),
        (b"x" * 1_025, f"sha256:{hashlib.sha256(b'x' * 1_025).hexdigest()}"),
    ],
)
def test_a_key_is_shown_as_text(key: bytes | None, shown: str | None) -> None:
    assert key_text(key) == shown
