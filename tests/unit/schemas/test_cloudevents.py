from __future__ import annotations

import json
from typing import Any

import pytest

from schemas.errors import DecodeError, RecordError, ValidationError
from tests.unit.schemas.samples import (
    EVENT,
    PNG,
    PNG_BASE64,
    TRACE,
    Headers,
    decode_image,
    decode_prompt,
    image,
    refusal,
    said,
    text,
)

STRUCTURED: dict[str, bytes | None] = {"content-type": b"application/cloudevents+json; charset=utf-8"}


def event(**fields: Any) -> bytes:
    return json.dumps({"specversion": "1.0", "id": "e-1", "source": "/shop", "type": "ask", **fields}).encode()


def test_a_binary_event_carries_its_attributes_in_headers_and_the_prompt_as_its_value() -> None:
    headers = EVENT | {
        "ce_model": b"smollm2-135m",
        "ce_modelversion": b"2",
        "ce_priority": b"0",
        "ce_expirytime": b"1970-01-01T00:00:01Z",
        "ce_traceparent": TRACE.encode(),
        "ce_somethingelse": b"ignored",
        "content-type": b"application/json",
    }
    request = decode_prompt(b'{"prompt": "Hello", "max_tokens": 3}', headers)
    assert (request.id, request.model, request.model_version) == ("e-1", "smollm2-135m", "2")
    assert (request.priority, request.expires_at_ms, request.traceparent) == (0, 1_000, TRACE)
    assert (text(request).prompt, text(request).max_tokens) == ("Hello", 3)


def test_a_binary_event_may_hold_bare_text_or_a_bare_image() -> None:
    assert said(decode_prompt(b"Hello", EVENT | {"content-type": b"text/plain"})) == "Hello"
    assert image(decode_image(PNG, EVENT | {"ce_datacontenttype": b"image/png"})).data == PNG


def test_the_trace_of_a_kafka_client_is_taken_when_the_event_has_none_of_its_own() -> None:
    assert decode_prompt(b"Hello", EVENT | {"traceparent": TRACE.encode()}).traceparent == TRACE
    assert decode_prompt(event(data="Hello"), STRUCTURED | {"traceparent": TRACE.encode()}).traceparent == TRACE


@pytest.mark.parametrize("headers", [STRUCTURED, {}, {"content-type": b"application/json"}])
def test_a_structured_event_is_told_by_its_content_type_or_by_its_fields(headers: Headers) -> None:
    value = event(data={"prompt": "Hello"}, model="m", priority=7, expirytime="1970-01-01T00:00:02Z", traceparent=TRACE)
    request = decode_prompt(value, headers)
    assert (request.id, request.model, request.priority) == ("e-1", "m", 7)
    assert (request.expires_at_ms, request.traceparent, text(request).prompt) == (2_000, TRACE, "Hello")


def test_structured_data_may_be_text_or_base64_bytes() -> None:
    assert said(decode_prompt(event(data="Hello", datacontenttype="text/plain"))) == "Hello"
    request = decode_image(event(data_base64=PNG_BASE64, datacontenttype="image/png"))
    assert image(request).data == PNG
    assert image(decode_image(event(data={"image": PNG_BASE64, "top_k": 2}))).top_k == 2


def test_an_event_without_data_is_a_request_when_it_has_a_dataref() -> None:
    assert image(decode_image(None, EVENT | {"ce_dataref": b"file:///cat.png"})).dataref == "file:///cat.png"
    assert image(decode_image(event(dataref="file:///cat.png"))).dataref == "file:///cat.png"


@pytest.mark.parametrize("missing", ["specversion", "id", "source", "type"])
def test_a_truncated_event_is_refused_by_the_attribute_it_lacks(missing: str) -> None:
    headers = {name: value for name, value in EVENT.items() if name != f"ce_{missing}"}
    error = refusal(decode_prompt, b"Hello", headers)
    assert (type(error), error.where) == (DecodeError, f"header ce_{missing}")
    assert f"without '{missing}'" in error.message
    value = json.loads(event(data="Hello"))
    del value[missing]
    error = refusal(decode_prompt, json.dumps(value).encode(), STRUCTURED)
    assert (type(error), error.where) == (DecodeError, f"$.{missing}")


@pytest.mark.parametrize(
    ("value", "headers", "kind", "where", "said"),
    [
        (event(data="Hello")[:-9], STRUCTURED, DecodeError, "value", "not JSON"),
        (b"[1]", STRUCTURED, DecodeError, "value", "expected a CloudEvent"),
        (None, STRUCTURED, DecodeError, "value", "null (a tombstone)"),
        (b"", STRUCTURED, DecodeError, "value", "is empty"),
        (None, EVENT, DecodeError, "value", "null (a tombstone)"),
        (b"", EVENT, DecodeError, "value", "is empty"),
        (event(), STRUCTURED, DecodeError, "$.data", "the event has no data"),
        (event(data="x", data_base64="eA=="), STRUCTURED, DecodeError, "$.data_base64", "both"),
        (event(data_base64="%%"), STRUCTURED, DecodeError, "$.data_base64", "not base64"),
        (event(data_base64=5), STRUCTURED, DecodeError, "$.data_base64", "expected text, got 5"),
        (event(data=[1]), STRUCTURED, DecodeError, "$.data", "expected an object or text"),
        (event(data={"prompt": "x", "top_p": 0}), STRUCTURED, ValidationError, "$.data.top_p", "> 0"),
        (event(data={"promt": "x"}), STRUCTURED, ValidationError, "$.data.promt", "Did you mean 'prompt'?"),
        (event(data={}), STRUCTURED, ValidationError, "$.data", "none is given"),
        (event(data="x", priority=99), STRUCTURED, ValidationError, "$.priority", "<= 9, got 99"),
        (event(data="x", expirytime=5), STRUCTURED, ValidationError, "$.expirytime", "got `int`"),
        (event(data="x", datacontenttype=5), STRUCTURED, ValidationError, "$.datacontenttype", "got 5"),
        (event(data_base64=PNG_BASE64), STRUCTURED, DecodeError, "$.data_base64", "topic of images"),
        (event(data="x", specversion="0.3"), {}, DecodeError, "$.specversion", "Use '1.0'"),
        (
            b"[]",
            {"content-type": b"application/cloudevents-batch+json"},
            DecodeError,
            "header content-type",
            "one event",
        ),
        (b"x", {"content-type": b"application/cloudevents+avro"}, DecodeError, "header content-type", "not accepted"),
        (b"x", EVENT | {"ce_specversion": b"2"}, DecodeError, "header ce_specversion", "Use '1.0'"),
        (b"x", EVENT | {"ce_id": b""}, DecodeError, "header ce_id", "not empty"),
        (b"x", EVENT | {"ce_id": b"\xff"}, DecodeError, "header ce_id", "UTF-8"),
        (b"x", EVENT | {"ce_id": b"x" * 1_025}, ValidationError, "header ce_id", "<= 1024"),
        (b"x", EVENT | {"ce_expirytime": b"soon"}, ValidationError, "header ce_expirytime", "got 'soon'"),
        (b"x", EVENT | {"ce_priority": b"-1"}, ValidationError, "header ce_priority", "got '-1'"),
        (b"x", EVENT | {"ce_task": b"sing"}, ValidationError, "header ce_task", "known: text-generation"),
        (b"x", EVENT | {"ce_task": b"image-classification"}, ValidationError, "header ce_task", "does not belong"),
    ],
)
def test_a_bad_event_is_refused_with_what_and_where(
    value: bytes | None, headers: Headers, kind: type[RecordError], where: str, said: str
) -> None:
    error = refusal(decode_prompt, value, headers)
    assert (type(error), error.where) == (kind, where)
    assert said in error.message
