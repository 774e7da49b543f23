"""Any bytes on any topic give a request or a RecordError, and what follows from either can be published."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from confluent_kafka.schema_registry import Schema
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.bodies import ImageBody, PromptBody
from schemas.codecs import Decoder
from schemas.dead_letters import dead_letter
from schemas.errors import RecordError
from schemas.generate import documents
from schemas.messages import InferenceRequest
from schemas.outcomes import decode_outcome, encode_outcome, error_outcome
from schemas.records import RawRecord
from schemas.registry import ConfluentRegistry, FakeRegistry
from schemas.tasks import TASKS
from tests.unit.schemas.samples import JPEG, PNG, PNG_BASE64, WEBP

REGISTRY = ConfluentRegistry("mock://fuzz")
for schema, form in (("avro/prompt-request.avsc", "AVRO"), ("json/request.schema.json", "JSON")):
    REGISTRY.client.register_schema(schema, Schema(documents()[schema], form))
DECODERS = [
    Decoder(kind, registry=registry, max_bytes=2_000)
    for kind in TASKS
    for registry in (None, FakeRegistry({1: "Ask", 2: "Answer"}), REGISTRY)
]
FIELDS = [
    *PromptBody.__struct_fields__,
    *ImageBody.__struct_fields__,
    *("specversion", "source", "type", "datacontenttype", "data", "data_base64", "modelversion"),
]
TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["1.0", "user", "text-generation", "2030-01-01T00:00:00Z", PNG_BASE64, "data:,", "9"]),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXTS)
TREE_NAMES = st.one_of(st.sampled_from([*FIELDS, "role", "content"]), st.text(max_size=5))
TREES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(TREE_NAMES, inner, max_size=4),
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from(FIELDS), TREES, max_size=6)
EVENTS = OBJECTS.map(lambda fields: {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", **fields})
MARKS = st.sampled_from([b"", b"{", b"[", b"\x00", b"\x00\x00\x00\x00\x01", PNG, JPEG, WEBP, b"\xef\xbb\xbf", b"\xff"])
VALUES = st.one_of(
    st.none(),
    st.binary(max_size=300),
    st.tuples(MARKS, st.binary(max_size=100)).map(b"".join),
    st.one_of(OBJECTS, EVENTS, TREES).map(lambda tree: json.dumps(tree).encode()),
    st.tuples(EVENTS, st.integers(0, 200)).map(lambda pair: json.dumps(pair[0]).encode()[: pair[1]]),
    st.tuples(st.just(b"\x00\x00\x00\x00\x02"), OBJECTS.map(lambda tree: json.dumps(tree).encode())).map(b"".join),
    st.just(b"x" * 2_001),
)
NAMES = st.one_of(
    st.sampled_from([f"ce_{name}" for name in FIELDS]),
    st.sampled_from(["content-type", "Content-Type", "__value_schema_id", "__connect.errors.topic", *FIELDS]),
    st.text(max_size=10),
)
MEDIA = ["application/json", "application/cloudevents+json", "text/plain;charset=x", "image/png", "text/plain", ";=;"]
HEADER_VALUES = st.one_of(
    st.none(), st.binary(max_size=20), TEXTS.map(str.encode), st.sampled_from(MEDIA).map(str.encode)
)
REQUIRED = ("specversion", "id", "source", "type")
ENVELOPES = st.fixed_dictionaries({}, optional={f"ce_{name}": st.just(b"1.0") for name in REQUIRED})
HEADERS = st.tuples(st.lists(st.tuples(NAMES, HEADER_VALUES), max_size=5), ENVELOPES).map(
    lambda pair: (*pair[0], *pair[1].items())
)
RECORDS = st.builds(
    RawRecord,
    topic=st.sampled_from(["inference.prompts", "inference.images"]),
    partition=st.integers(0, 9),
    offset=st.integers(0, 2**63 - 1),
    timestamp_ms=st.integers(-1, 2**50),
    key=st.one_of(st.none(), st.binary(max_size=20)),
    value=VALUES,
    headers=HEADERS,
)


def check_refusal(record: RawRecord, error: RecordError) -> None:
    outcome = error_outcome(record, error, None, now_ms=1_700_000_000_000)
    assert decode_outcome(encode_outcome(outcome)[0]) == outcome
    assert error.where
    assert len(error.message) < 2_000
    letter = dead_letter(record, error, "worker")
    assert (letter.key, letter.value) == (record.key, record.value)


@settings(max_examples=1_000)
@given(record=RECORDS, decoder=st.sampled_from(DECODERS))
def test_any_record_gives_a_request_or_an_error_that_can_be_published(record: RawRecord, decoder: Decoder) -> None:
    try:
        request = decoder.decode(record)
    except RecordError as error:
        check_refusal(record, error)
    else:
        # Every bound holds on the finished request, not only on what was read.
        assert msgspec.convert(msgspec.to_builtins(request), InferenceRequest) == request


@settings(max_examples=300)
@given(prompt=st.text(min_size=1, max_size=200).filter(str.strip))
def test_any_text_sent_as_a_json_prompt_arrives_unchanged(prompt: str) -> None:
    value = json.dumps({"prompt": prompt}).encode()
    request = DECODERS[0].decode(RawRecord(topic="t", partition=0, offset=0, value=value))
    assert msgspec.to_builtins(request.input)["prompt"] == prompt
