from __future__ import annotations

import base64
import json

import pytest

from schemas.errors import DecodeError, RecordError, ValidationError
from schemas.limits import MAX_KEY_BYTES
from schemas.messages import ChatMessage, Source, Task
from schemas.records import RawRecord
from schemas.tasks import TASKS
from tests.unit.schemas.samples import (
    JPEG,
    MAX_BYTES,
    PNG,
    PNG_BASE64,
    TRACE,
    WEBP,
    Headers,
    decode_image,
    decode_prompt,
    image,
    refusal,
    said,
    text,
)


def test_a_line_of_text_is_a_prompt_with_the_records_own_name_as_its_id() -> None:
    request = decode_prompt("Où est ma commande ?".encode())
    assert request.id == "inference.prompts/2/7"
    assert request.source == Source(topic="inference.prompts", partition=2, offset=7)
    assert (request.task, request.key, request.created_at_ms) == ("text-generation", b"k", 1_700_000_000_000)
    assert said(request) == "Où est ma commande ?"
    assert text(request).temperature == 0.0


def test_a_byte_order_mark_is_no_part_of_the_prompt() -> None:
    assert said(decode_prompt(b"\xef\xbb\xbfhello")) == "hello"
    assert text(decode_prompt(b'\xef\xbb\xbf{"prompt": "hello"}')).prompt == "hello"


def test_openai_fields_are_read_with_their_types() -> None:
    body = {
        "id": "order-7",
        "model": "smollm2-135m",
        "model_version": "1",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
        "max_tokens": 5,
        "temperature": 0.7,
        "top_p": 0.9,
        "stop": ["\n", "User:"],
        "seed": 3,
        "stream": True,
        "priority": 9,
        "parameters": {"campaign": "may", "retries": 2, "vip": None},
    }
    request = decode_prompt(json.dumps(body).encode())
    assert (request.id, request.model, request.model_version, request.priority) == ("order-7", "smollm2-135m", "1", 9)
    assert request.parameters == {"campaign": "may", "retries": 2, "vip": None}
    prompt = text(request)
    assert prompt.messages == (
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content="Hello"),
    )
    assert (prompt.max_tokens, prompt.temperature, prompt.top_p, prompt.seed, prompt.stream) == (5, 0.7, 0.9, 3, True)
    assert prompt.stop == ("\n", "User:")


def test_one_stop_string_is_as_good_as_a_list() -> None:
    assert text(decode_prompt(b'{"prompt": "x", "stop": "END"}')).stop == ("END",)


def test_a_null_field_counts_as_not_given() -> None:
    request = decode_prompt(b'{"prompt": "x", "messages": null, "max_tokens": null, "seed": null, "model": null}')
    assert text(request).max_tokens == 128
    assert request.model is None


def test_attributes_may_come_as_headers_and_win_over_the_value() -> None:
    headers: Headers = {
        "Model": b"from-header",
        "priority": b"8",
        "expirytime": b"2030-01-01T02:00:00.250+02:00",
        "traceparent": TRACE.encode(),
        "id": b"from-header",
        "task": b"text-generation",
        "unrelated": b"\xff\xfe",
        "empty": None,
    }
    request = decode_prompt(b'{"prompt": "x", "model": "from-value", "id": "from-value"}', headers)
    assert (request.id, request.model, request.priority, request.traceparent) == (
        "from-header",
        "from-header",
        8,
        TRACE,
    )
    assert request.expires_at_ms == 1_893_456_000_250


@pytest.mark.parametrize(
    "trace", ["nonsense", TRACE.upper(), TRACE + "x", f"ff{TRACE[2:]}", "00-" + "0" * 32 + TRACE[35:]]
)
def test_a_broken_trace_is_dropped_and_fails_nothing(trace: str) -> None:
    assert decode_prompt(b"x", {"traceparent": trace.encode()}).traceparent is None


def test_text_that_looks_like_json_is_a_prompt_when_it_is_declared_as_text() -> None:
    assert said(decode_prompt(b"{name} says", {"content-type": b"text/plain; charset=UTF-8"})) == "{name} says"


@pytest.mark.parametrize(
    ("data", "media_type"),
    [(PNG, "image/png"), (JPEG, "image/jpeg"), (WEBP, "image/webp")],
    ids=["png", "jpeg", "webp"],
)
def test_a_bare_image_is_told_by_its_bytes_whatever_was_declared(data: bytes, media_type: str) -> None:
    for headers in ({}, {"content-type": b"image/gif"}, {"content-type": b"application/octet-stream"}):
        sent = image(decode_image(data, headers))
        assert (sent.data, sent.content_type, sent.top_k) == (data, media_type, None)


@pytest.mark.parametrize(
    "written",
    [PNG_BASE64, f"data:image/png;base64,{PNG_BASE64}", base64.encodebytes(PNG * 9).decode()],
    ids=["base64", "data URI", "base64 in lines"],
)
def test_an_image_in_json_is_base64_or_a_data_uri(written: str) -> None:
    sent = image(decode_image(json.dumps({"image": written, "top_k": 3}).encode()))
    assert (sent.data[: len(PNG)], sent.content_type, sent.top_k) == (PNG, "image/png", 3)


def test_a_dataref_stands_for_the_image() -> None:
    assert image(decode_image(b'{"dataref": "file:///photos/cat.jpg"}')).dataref == "file:///photos/cat.jpg"
    assert image(decode_image(None, {"dataref": b"file:///photos/cat.jpg"})).dataref == "file:///photos/cat.jpg"


def test_an_image_that_was_sent_along_is_taken_before_the_envelopes_dataref() -> None:
    sent = image(decode_image(PNG, {"dataref": b"file:///photos/cat.jpg"}))
    assert (sent.data, sent.dataref) == (PNG, None)


@pytest.mark.parametrize(
    ("value", "headers", "kind", "where", "said"),
    [
        (None, {}, DecodeError, "value", "null (a tombstone)"),
        (b"", {}, DecodeError, "value", "is empty"),
        (b" \n", {}, ValidationError, "value", "nothing but white space"),
        (b"caf\xe9", {}, DecodeError, "value", "byte 3 is 0xe9"),
        (b"hi", {"content-type": b"application/json"}, DecodeError, "value", "not JSON"),
        (b'{"prompt": "x"', {}, DecodeError, "value", "set the header content-type: text/plain"),
        (b'{"prompt": NaN}', {}, DecodeError, "value", "not JSON: invalid character"),
        (b'["x"]', {"content-type": b"application/json"}, DecodeError, "value", "expected a JSON object, got 1 items"),
        (b'{"a":' + b"[" * 100_000, {}, DecodeError, "value", "nested too deep"),
        (PNG, {}, DecodeError, "value", "Send it to the topic of images"),
        (b"x", {"content-type": b"image/png"}, DecodeError, "value", "Send it to the topic of images"),
        (b"x", {"content-type": b"application/pdf"}, DecodeError, "header content-type", "'application/pdf'"),
        (b"x", {"content-type": b"text/plain; charset=latin-1"}, ValidationError, "header content-type", "latin-1"),
        (b'{"prompt": "x", "max_tokens": -1}', {}, ValidationError, "$.max_tokens", ">= 1, got -1"),
        (b'{"prompt": "x", "max_tokens": 1e999}', {}, DecodeError, "value", "out of range"),
        (b'{"prompt": "x", "max_tokens": true}', {}, ValidationError, "$.max_tokens", "got `bool`"),
        (b'{"prompt": "x", "max_tokens": "5"}', {}, ValidationError, "$.max_tokens", "got `str`"),
        (b'{"prompt": "x", "temperature": 2.5}', {}, ValidationError, "$.temperature", "<= 2.0, got 2.5"),
        (b'{"prompt": "x", "max_token": 1}', {}, ValidationError, "$.max_token", "Did you mean 'max_tokens'?"),
        (b'{"prompt": "x", "zzz": 1}', {}, ValidationError, "$.zzz", "Known: id, task"),
        (b'{"prompt": "x", "image": "aa"}', {}, ValidationError, "$.image", "unknown field 'image'"),
        (b"{}", {}, ValidationError, "$", "none is given"),
        (
            b'{"prompt": "x", "messages": [{"role": "user", "content": "y"}]}',
            {},
            ValidationError,
            "$",
            "both are given",
        ),
        (
            b'{"messages": [{"role": "bot", "content": "x"}]}',
            {},
            ValidationError,
            "$.messages[0].role",
            "known: system, user, assistant",
        ),
        (b'{"messages": [{"role": "user"}]}', {}, ValidationError, "$.messages[0]", "`content`"),
        (b'{"messages": "hi"}', {}, ValidationError, "$.messages", "got `str`"),
        (b'{"prompt": "x", "task": "sing"}', {}, ValidationError, "$.task", "known: text-generation"),
        (b'{"prompt": "x", "task": "image-classification"}', {}, ValidationError, "$.task", "does not belong on"),
        (b'{"prompt": "x", "expirytime": "tomorrow"}', {}, ValidationError, "$.expirytime", "got 'tomorrow'"),
        (b"x", {"expirytime": b"2030-01-01T00:00:00"}, ValidationError, "header expirytime", "timezone"),
        (b"x", {"priority": b"high"}, ValidationError, "header priority", "from 0 to 9, got 'high'"),
        (b"x", {"model": b"\xff"}, DecodeError, "header model", "not valid UTF-8"),
        (b"x", {"dataref": b"file:///x"}, ValidationError, "header dataref", "unknown field 'dataref'"),
        (b'{"prompt": "x", "parameters": {"a": [1]}}', {}, ValidationError, "$.parameters[...]", "got `array`"),
        (json.dumps({"prompt": "x" * 200_001}).encode(), {}, ValidationError, "$.prompt", "<= 200000"),
        (json.dumps({"prompt": "x", "stop": ["a"] * 9}).encode(), {}, ValidationError, "$.stop", "length <= 8"),
    ],
)
def test_a_bad_prompt_record_is_refused_with_what_and_where(
    value: bytes | None, headers: Headers, kind: type[RecordError], where: str, said: str
) -> None:
    error = refusal(decode_prompt, value, headers)
    assert (type(error), error.where) == (kind, where)
    assert said in error.message
    assert len(error.message) < 400


@pytest.mark.parametrize(
    ("value", "headers", "kind", "where", "said"),
    [
        (b"a cat", {}, DecodeError, "value", "not a JPEG, PNG or WebP image but 5 bytes that begin with b'a cat'"),
        (b"a cat", {"content-type": b"text/plain"}, DecodeError, "value", "Send it to the topic of prompts"),
        (b"GIF89a....", {}, DecodeError, "value", "a GIF image"),
        (b"\x00\x00\x00\x20ftypheic", {"content-type": b"image/heic"}, DecodeError, "value", "no registry"),
        (b'{"image": "not base64!"}', {}, ValidationError, "$.image", "base64"),
        (b'{"image": "data:image/png,abc"}', {}, DecodeError, "$.image", "data: URI"),
        (b'{"image": "aGVsbG8="}', {}, DecodeError, "$.image", "b'hello'"),
        (b'{"image": ""}', {}, DecodeError, "$.image", "not a JPEG, PNG or WebP image but nothing"),
        (b'{"image": 5}', {}, ValidationError, "$.image", "got `int`"),
        (b'{"top_k": 3}', {}, ValidationError, "$", "none is given"),
        (json.dumps({"image": PNG_BASE64, "dataref": "x"}).encode(), {}, ValidationError, "$", "both are given"),
        (json.dumps({"image": PNG_BASE64, "top_k": 0}).encode(), {}, ValidationError, "$.top_k", ">= 1, got 0"),
        (b'{"messages": []}', {}, ValidationError, "$.messages", "unknown field 'messages'"),
        (b'{"threshold": 1.5}', {}, ValidationError, "$.threshold", "<= 1.0, got 1.5"),
        (b'{"candidate_labels": [""]}', {}, ValidationError, "$.candidate_labels[0]", ">= 1"),
        (
            json.dumps({"candidate_labels": ["a"] * 1_001}).encode(),
            {},
            ValidationError,
            "$.candidate_labels",
            "<= 1000",
        ),
        (b'{"hypothesis_template": "a photo"}', {}, ValidationError, "$.hypothesis_template", "has no '{}'"),
        (b'{"max_tokens": 0}', {}, ValidationError, "$.max_tokens", ">= 1, got 0"),
        (b'{"task": "text-generation"}', {}, ValidationError, "$.task", "does not belong on inference.images"),
        (None, {}, DecodeError, "value", "tombstone"),
        (b"", {}, DecodeError, "value", "is empty"),
        (b"<svg/>", {"content-type": b"application/xml"}, DecodeError, "header content-type", "'application/xml'"),
    ],
)
def test_a_bad_image_record_is_refused_with_what_and_where(
    value: bytes | None, headers: Headers, kind: type[RecordError], where: str, said: str
) -> None:
    error = refusal(decode_image, value, headers)
    assert (type(error), error.where) == (kind, where)
    assert said in error.message


def test_what_is_asked_about_an_image_is_read_with_its_types() -> None:
    body = {
        "image": PNG_BASE64,
        "task": "zero-shot-image-classification",
        "candidate_labels": ["a cat", "a dog"],
        "hypothesis_template": "a sketch of {}",
        "threshold": 0.25,
        "prompt": "What is this?",
        "max_tokens": 7,
        "stop": "END",
        "stream": True,
    }
    request = decode_image(json.dumps(body).encode())
    asked = image(request)
    assert request.task == "zero-shot-image-classification"
    assert (asked.candidate_labels, asked.hypothesis_template) == (("a cat", "a dog"), "a sketch of {}")
    assert (asked.threshold, asked.prompt, asked.max_tokens) == (0.25, "What is this?", 7)
    assert (asked.stop, asked.stream, asked.top_k) == (("END",), True, None)


@pytest.mark.parametrize("task", TASKS["prompts"])
def test_a_prompt_may_ask_for_every_task_that_reads_text(task: Task) -> None:
    request = decode_prompt(json.dumps({"prompt": "x", "task": task, "top_k": 2}).encode())
    assert (request.task, text(request).top_k) == (task, 2)


@pytest.mark.parametrize("task", TASKS["images"])
def test_an_image_may_ask_for_every_task_that_reads_images(task: Task) -> None:
    assert decode_image(PNG, {"task": task.encode()}).task == task


def test_a_record_that_names_a_model_alone_leaves_the_task_to_it() -> None:
    assert decode_prompt(b'{"prompt": "x", "model": "minilm"}').task is None
    assert decode_image(PNG, {"model": b"clip"}).task is None


def test_a_record_that_names_neither_asks_for_its_topics_default() -> None:
    assert decode_prompt(b"x").task == "text-generation"
    assert decode_image(PNG).task == "image-classification"


def test_a_value_over_the_bound_is_refused_unread() -> None:
    error = refusal(decode_image, JPEG + bytes(30_000_000))
    assert isinstance(error, ValidationError)
    assert error.message.startswith(f"the value has 30,000,023 bytes, the bound is {MAX_BYTES:,}.")


def test_a_key_over_the_bound_is_refused() -> None:
    from schemas.codecs import Decoder

    long_key = RawRecord(topic="t", partition=0, offset=0, value=b"x", key=bytes(MAX_KEY_BYTES + 1))
    decoder = Decoder("prompts", max_bytes=10)
    assert refusal(decoder.decode, long_key).where == "key"


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (b'{"prompt": "x", "max_tokens": 0, "id": "mine", "traceparent": "%s"}' % TRACE.encode(), {}),
        (b"\xff", {"id": b"mine", "traceparent": TRACE.encode()}),
        (b"x", {"ce_id": b"mine", "traceparent": TRACE.encode()}),
        (b"x" * (MAX_BYTES + 1), {"id": b"mine", "traceparent": TRACE.encode()}),
    ],
    ids=["a bad field", "bad bytes", "half an event", "too large"],
)
def test_a_refused_record_still_tells_the_callers_id_and_trace(value: bytes, headers: Headers) -> None:
    error = refusal(decode_prompt, value, headers)
    assert (error.request_id, error.traceparent) == ("mine", TRACE)
