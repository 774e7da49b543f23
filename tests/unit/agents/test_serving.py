from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from agents.records import UNREADABLE_HEADERS
from agents.serving import Route, Server
from schemas.codecs import Decoder
from schemas.errors import InferenceError
from schemas.messages import InferenceRequest, ModelInfo, Outcome, TokenPiece, outcome_id
from schemas.records import RawRecord

MODEL = ModelInfo(name="m", version="1", digest="ab" * 32, precision="int8", provider="cpu")
RECORD = RawRecord(topic="prompts", partition=1, offset=2, timestamp_ms=3, key=None, value=b"hello", headers=())


class FailingEngine:
    """Fails on every request, under a model or before any."""

    def __init__(self, model: ModelInfo | None) -> None:
        self._model = model

    async def submit(self, request: InferenceRequest, *, emit: Callable[[TokenPiece], None] | None = None) -> Outcome:
        error = InferenceError("the model failed on this prompt")
        error.model = self._model
        raise error


def make_server(engine: FailingEngine, route: Route) -> Server:
    return Server(engine, {"prompts": route}, dead_letters="letters", worker="w", max_letter_bytes=20_000)


@pytest.mark.parametrize(("model", "digest"), [(MODEL, MODEL.digest), (None, "")])
async def test_an_error_has_the_id_of_the_answer_that_its_model_would_have_given(
    model: ModelInfo | None, digest: str
) -> None:
    route = Route(Decoder("prompts", max_bytes=1_000), "results")
    server = Server(
        FailingEngine(model), {"prompts": route}, dead_letters="dead-letters", worker="w", max_letter_bytes=10_000
    )
    reply = await server.serve(RECORD, lambda piece: None)
    assert reply.outcome.status == "error"
    assert reply.outcome.model == model
    assert reply.outcome.id == outcome_id(RECORD.source, digest)
    assert reply.letter is not None


async def test_a_dead_letter_too_large_for_its_topic_keeps_the_reason_and_the_digest_of_its_value() -> None:
    route = Route(Decoder("prompts", max_bytes=1_000), "results")
    server = Server(
        FailingEngine(None), {"prompts": route}, dead_letters="letters", worker="w", max_letter_bytes=20_000
    )
    record = RawRecord(topic="prompts", partition=0, offset=1, key=b"k", value=b"x" * 50_000)
    reply = await server.serve(record, lambda piece: None)
    assert reply.letter is not None
    assert reply.letter.value is None
    headers = dict(reply.letter.headers)
    assert headers["__connect.errors.offset"] == b"1"
    assert hashlib.sha256(b"x" * 50_000).hexdigest().encode() in (headers["millrace.omitted"] or b"")


async def test_a_record_whose_headers_cannot_be_read_gets_an_error_of_its_own() -> None:
    route = Route(Decoder("prompts", max_bytes=1_000), "results")
    server = Server(
        FailingEngine(None), {"prompts": route}, dead_letters="letters", worker="w", max_letter_bytes=20_000
    )
    record = RawRecord(topic="prompts", partition=0, offset=1, value=b"hello", headers=UNREADABLE_HEADERS)
    reply = await server.serve(record, lambda piece: None)
    assert reply.outcome.error is not None
    assert "UTF-8" in reply.outcome.error.message
    assert reply.letter is not None
    assert reply.letter.value == b"hello"
