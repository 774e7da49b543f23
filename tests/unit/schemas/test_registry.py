from __future__ import annotations

import json
import struct
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, header_schema_id_serializer
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from schemas.errors import DecodeError, RegistryError
from schemas.generate import documents
from schemas.registry import ConfluentRegistry, FakeRegistry, RegistryDecoder
from tests.unit.schemas.samples import EVENT, JPEG, PNG_BASE64, decode_image, decode_prompt, image, refusal, said, text

PROMPTS = SerializationContext("inference.prompts", MessageField.VALUE)
IMAGES = SerializationContext("inference.images", MessageField.VALUE)


@pytest.fixture
def registry() -> ConfluentRegistry:
    return ConfluentRegistry("mock://tests")


def avro(registry: ConfluentRegistry, name: str, body: dict[str, Any], context: SerializationContext) -> bytes:
    value = AvroSerializer(registry.client, documents()[f"avro/{name}.avsc"])(body, context)
    assert isinstance(value, bytes)
    return value


def prompt_body(**fields: Any) -> dict[str, Any]:
    return {"parameters": {}, "messages": [], "priority": 4, "max_tokens": 9, "stop": [], "stream": False} | fields


def test_an_avro_prompt_of_our_own_schema_is_decoded(registry: ConfluentRegistry) -> None:
    deadline = datetime(2030, 1, 1, tzinfo=UTC)
    body = prompt_body(messages=[{"role": "user", "content": "Hello"}], expirytime=deadline, parameters={"a": 1})
    body |= {"temperature": 0.5, "top_p": 1.0, "id": "avro-1"}
    request = decode_prompt(avro(registry, "prompt-request", body, PROMPTS), {}, registry)
    assert (request.id, request.expires_at_ms, request.parameters) == ("avro-1", 1_893_456_000_000, {"a": 1})
    assert (text(request).messages[0].content, text(request).max_tokens) == ("Hello", 9)


def test_an_avro_image_holds_the_images_own_bytes(registry: ConfluentRegistry) -> None:
    body = {"priority": 4, "parameters": {}, "image": JPEG, "top_k": 2}
    sent = image(decode_image(avro(registry, "image-request", body, IMAGES), {}, registry))
    assert (sent.data, sent.content_type, sent.top_k) == (JPEG, "image/jpeg", 2)


def test_a_callers_own_smaller_avro_schema_will_do(registry: ConfluentRegistry) -> None:
    schema = {"type": "record", "name": "Ask", "fields": [{"name": "prompt", "type": "string"}]}
    value = AvroSerializer(registry.client, json.dumps(schema))({"prompt": "Hello"}, PROMPTS)
    request = decode_prompt(value, EVENT, registry)
    assert (request.id, text(request).prompt) == ("e-1", "Hello")


def test_avro_text_is_a_prompt_and_avro_bytes_are_an_image(registry: ConfluentRegistry) -> None:
    value = AvroSerializer(registry.client, '"string"')("Hello", PROMPTS)
    assert said(decode_prompt(value, {}, registry)) == "Hello"
    value = AvroSerializer(registry.client, '"bytes"')(JPEG, IMAGES)
    assert image(decode_image(value, {}, registry)).data == JPEG


def test_json_schema_framing_is_decoded(registry: ConfluentRegistry) -> None:
    serializer = JSONSerializer(documents()["json/request.schema.json"], registry.client)
    request = decode_prompt(serializer({"prompt": "Hello", "max_tokens": 3}, PROMPTS), {}, registry)
    assert (text(request).prompt, text(request).max_tokens) == ("Hello", 3)
    sent = image(decode_image(serializer({"image": PNG_BASE64}, IMAGES), {}, registry))
    assert sent.content_type == "image/png"


def test_a_schema_id_in_a_header_is_read_too(registry: ConfluentRegistry) -> None:
    headers: dict[str, Any] = {}
    context = SerializationContext("inference.prompts", MessageField.VALUE, headers)
    conf = {"schema.id.serializer": header_schema_id_serializer}
    value = AvroSerializer(registry.client, '"string"', conf=conf)("Hello", context)
    assert value is not None
    assert not value.startswith(b"\x00")
    assert said(decode_prompt(value, headers, registry)) == "Hello"


def test_what_avro_lets_through_is_still_bounded(registry: ConfluentRegistry) -> None:
    value = avro(registry, "prompt-request", prompt_body(prompt="x", max_tokens=-1, temperature=0, top_p=1), PROMPTS)
    error = refusal(decode_prompt, value, {}, registry)
    assert (error.where, error.code) == ("$.max_tokens", "validation_error")
    value = avro(registry, "prompt-request", prompt_body(prompt="x", temperature=float("nan"), top_p=1), PROMPTS)
    assert refusal(decode_prompt, value, {}, registry).where == "$.temperature"


def test_framing_without_a_registry_is_refused_with_the_setting_to_set() -> None:
    error = refusal(decode_prompt, b"\x00\x00\x00\x00\x07payload")
    assert isinstance(error, DecodeError)
    assert "(schema 7)" in error.message
    assert "Set kafka.schema_registry_url" in error.message


@pytest.mark.parametrize("known", ["confluent", "fake"])
@pytest.mark.parametrize(
    "value", [b"\x00", b"\x00\x00\x00\x00\x01", b"\x00\xff\xff\xff\xff{}", b"\x00\x00\x00\x03\xe7{}"]
)
def test_cut_framing_and_unknown_schemas_are_the_records_fault(known: str, value: bytes) -> None:
    registry: RegistryDecoder = ConfluentRegistry("mock://empty") if known == "confluent" else FakeRegistry({1: "Ask"})
    error = refusal(decode_prompt, value, {}, registry)
    assert isinstance(error, DecodeError)
    assert "framing" in error.message or "is not in the registry" in error.message


def test_a_payload_that_does_not_fit_its_schema_is_the_records_fault(registry: ConfluentRegistry) -> None:
    whole = avro(registry, "prompt-request", prompt_body(prompt="x" * 50, temperature=0, top_p=1), PROMPTS)
    assert isinstance(refusal(decode_prompt, whole[:20], {}, registry), DecodeError)
    schema_id = registry.client.register_schema("s", Schema('{"type": "object"}', "JSON"))
    framed = b"\x00" + struct.pack(">I", schema_id)
    assert isinstance(refusal(decode_prompt, framed + b"nonsense", {}, registry), DecodeError)
    assert "does not fit" in refusal(decode_prompt, framed + b"[1]", {}, registry).message


def test_protobuf_is_refused_by_name(registry: ConfluentRegistry) -> None:
    schema_id = registry.client.register_schema("p", Schema('syntax = "proto3"; message Ask {}', "PROTOBUF"))
    error = refusal(decode_prompt, b"\x00" + struct.pack(">I", schema_id) + b"\x00", {}, registry)
    assert "'PROTOBUF'. Use Avro or JSON Schema" in error.message


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_registry_that_cannot_be_asked_fails_no_record(
    registry: ConfluentRegistry, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise SchemaRegistryError(status, status * 100, "no")

    monkeypatch.setattr(registry.client, "get_schema", refuse)
    with pytest.raises(RegistryError, match="could not give schema 7"):
        decode_prompt(b"\x00\x00\x00\x00\x07{}", {}, registry)


def test_a_registry_that_is_not_there_fails_no_record() -> None:
    registry = ConfluentRegistry("http://127.0.0.1:9", {"timeout": 1, "max.retries": 0})
    with pytest.raises(RegistryError):
        decode_prompt(b"\x00\x00\x00\x00\x07{}", {}, registry)


def test_the_fake_serves_json_under_known_ids_and_plays_an_outage() -> None:
    fake = FakeRegistry({7: "Ask"})
    assert text(decode_prompt(b'\x00\x00\x00\x00\x07{"prompt": "Hello"}', {}, fake)).prompt == "Hello"
    fake.reachable = False
    with pytest.raises(RegistryError):
        decode_prompt(b"\x00\x00\x00\x00\x07{}", {}, fake)
    fake.reachable = True
    assert "expected a record" in refusal(decode_prompt, b"\x00\x00\x00\x00\x07[1]", {}, fake).message
