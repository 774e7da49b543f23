from __future__ import annotations

from collections.abc import Callable

import pytest

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


@pytest.mark.parametrize(("model", "digest"), [(MODEL, MODEL.digest), (None, "")])
async def test_an_error_has_the_id_of_the_answer_that_its_model_would_have_given(
    model: ModelInfo | None, digest: str
) -> None:
    route = Route(Decoder(default_task="text-generation", max_bytes=1_000), "results")
    server = Server(FailingEngine(model), {"prompts": route}, dead_letters="dead-letters", worker="w")
    reply = await server.serve(RECORD, lambda piece: None)
    assert reply.outcome.status == "error"
    assert reply.outcome.model == model
    assert reply.outcome.id == outcome_id(RECORD.source, digest)
    assert reply.letter is not None
