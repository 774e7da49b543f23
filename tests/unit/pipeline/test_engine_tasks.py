"""Every task through the engine, on fakes."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.runtime.fakes import (
    FakeBackend,
    fake_classifier,
    fake_detector,
    fake_embedder,
    fake_generator,
    fake_text_classifier,
    fake_zero_shot,
)
from schemas.errors import InferenceError, PrepareError
from schemas.messages import (
    ClassificationOutput,
    DetectionOutput,
    EmbeddingOutput,
    InferenceRequest,
    Outcome,
    TextOutput,
    TokenPiece,
)
from schemas.outcomes import decode_outcome, encode_outcome
from tests.unit.pipeline.helpers import StartEngine, image_request, text_request

MAKERS = (fake_classifier, fake_generator, fake_text_classifier, fake_embedder, fake_detector, fake_zero_shot)


@pytest.mark.parametrize(
    ("request_", "model", "kind"),
    [
        (text_request(), "fake-text", TextOutput),
        (text_request(task="text-classification"), "fake-topics", ClassificationOutput),
        (text_request(task="embeddings"), "fake-vectors", EmbeddingOutput),
        (text_request(model="fake-captions"), "fake-captions", EmbeddingOutput),
        (image_request(), "fake-images", ClassificationOutput),
        (image_request(task="object-detection"), "fake-objects", DetectionOutput),
        (image_request(model="fake-captions", candidate_labels=("a", "b")), "fake-captions", ClassificationOutput),
        (image_request(task="embeddings"), "fake-captions", EmbeddingOutput),
    ],
)
async def test_each_task_is_answered_by_its_model_in_its_own_form(
    start_engine: StartEngine, request_: InferenceRequest, model: str, kind: type
) -> None:
    engine = await start_engine(makers=MAKERS)
    outcome = await engine.submit(request_)
    assert outcome.model is not None
    assert outcome.model.name == model
    assert isinstance(outcome.output, kind)
    assert decode_outcome(encode_outcome(outcome)[0]) == outcome


async def test_a_model_of_several_tasks_has_one_lane(start_engine: StartEngine) -> None:
    engine = await start_engine(makers=[fake_zero_shot])
    requests = [
        image_request(model="fake-captions", candidate_labels=("a",)),
        image_request(task="embeddings"),
        text_request(task="embeddings"),
    ]
    outcomes = await asyncio.gather(*(engine.submit(request) for request in requests))
    assert [outcome.model for outcome in outcomes] == [*engine.models] * 3


async def test_a_task_that_writes_no_text_streams_nothing(start_engine: StartEngine) -> None:
    engine = await start_engine(makers=MAKERS)
    pieces: list[TokenPiece] = []
    await engine.submit(text_request(task="embeddings", stream=True), emit=pieces.append)
    await engine.submit(image_request(stream=True), emit=pieces.append)
    assert pieces == []


async def test_a_label_that_makes_its_batch_fail_fails_its_record_alone(start_engine: StartEngine) -> None:
    def poisoned(inputs: npt.NDArray[Any]) -> bool:
        return inputs.ndim == 2 and bool((inputs[:, 0] == ord("!")).any())

    engine = await start_engine(FakeBackend(fault=poisoned), makers=[fake_zero_shot])
    requests = [
        image_request(6, model="fake-captions", candidate_labels=("7", "!" if place == 13 else f"8{place}"))
        for place in range(32)
    ]
    results = await asyncio.gather(*map(engine.submit, requests), return_exceptions=True)
    assert isinstance(results[13], InferenceError)
    assert all(isinstance(result, Outcome) for place, result in enumerate(results) if place != 13)
    assert not engine.failed.done()


async def test_what_the_task_cannot_answer_is_refused_before_anything_runs(start_engine: StartEngine) -> None:
    engine = await start_engine(makers=MAKERS)
    before = engine.runs
    with pytest.raises(PrepareError, match="candidate_labels is for zero-shot"):
        await engine.submit(image_request(candidate_labels=("a",)))
    with pytest.raises(PrepareError, match="needs candidate_labels"):
        await engine.submit(image_request(task="zero-shot-image-classification"))
    assert engine.runs == before


async def test_texts_of_many_lengths_waiting_together_each_get_their_own_vector(start_engine: StartEngine) -> None:
    engine = await start_engine(makers=MAKERS)
    texts = [str(place % 10) * (1 + place * 7 % 60) for place in range(100)]
    outcomes = await asyncio.gather(*(engine.submit(text_request(text, task="embeddings")) for text in texts))
    vectors = [outcome.output.embedding for outcome in outcomes if isinstance(outcome.output, EmbeddingOutput)]
    assert [int(np.argmax(vector)) for vector in vectors] == [ord(text[0]) % 10 for text in texts]
