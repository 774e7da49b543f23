"""An engine with a store: two lives of one worker are two engines on one store."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from pipeline.engine import Engine
from pipeline.errors import MillraceError, ResultStoreError, SettingsError
from pipeline.results.recall import SMALL_BYTES, Question, Recall
from pipeline.results.store import MemoryStore
from pipeline.runtime.fakes import FakeBackend, fake_classifier, fake_generator
from schemas.errors import InferenceError
from schemas.messages import ImageInput, InferenceRequest, Outcome, TokenPiece
from schemas.outcomes import encode_outcome
from tests.unit.pipeline.helpers import encoded, image_request, settings, text_request
from tests.waiting import PATIENCE_S, until

StartLife = Callable[..., Awaitable[Engine]]


class BrokenStore(MemoryStore):
    """Fails, hangs or raises as told; ``broken`` is a method's name or ``"all"``."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = ""
        self.error: Exception = ResultStoreError("it is told to fail")
        self.hang_until: threading.Event | None = None
        self.calls: list[str] = []

    def _obey(self, method: str) -> None:
        self.calls.append(method)
        if self.broken in {method, "all"}:
            if self.hang_until is not None:
                self.hang_until.wait(PATIENCE_S)
            raise self.error

    def open(self) -> None:
        self._obey("open")

    def get(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        self._obey("get")
        return super().get(keys)

    def put(self, values: Mapping[bytes, bytes]) -> None:
        self._obey("put")
        super().put(values)


@pytest.fixture
async def start_life(tmp_path: Path) -> AsyncIterator[StartLife]:
    engines: list[Engine] = []

    async def start(store: MemoryStore, retry_s: float = 0.05, **options: Any) -> Engine:
        models = options.pop("models", [fake_classifier(tmp_path), fake_generator(tmp_path)])
        backend = options.pop("backend", FakeBackend())
        timeout_s = options.pop("timeout_s", PATIENCE_S)
        engine = Engine(settings(**options), models, store=store, backend=backend)
        engine._recall = Recall(store, engine.metrics, timeout_s=timeout_s, retry_s=retry_s)
        engines.append(engine)
        await engine.start()
        return engine

    yield start
    for engine in engines:
        await engine.close()


async def key_of(request: InferenceRequest) -> bytes:
    return (await Question.about(request, "0" * 64)).key


def count(engine: Engine, name: str, **labels: str) -> float:
    return engine.metrics.registry.get_sample_value(f"millrace_result_store_{name}_total", labels) or 0.0


async def test_a_repeat_gets_the_outcome_of_the_first_time_and_nothing_runs(start_life: StartLife) -> None:
    store = MemoryStore()
    requests = [image_request(i, key=b"k", traceparent="00-a-b-01") for i in range(50)]
    first = await start_life(store)
    outcomes = await asyncio.gather(*map(first.submit, requests))
    second = await start_life(store)
    repeats = await asyncio.gather(*map(second.submit, requests))
    assert [encode_outcome(outcome) for outcome in repeats] == [encode_outcome(outcome) for outcome in outcomes]
    assert second.runs == 0
    assert (count(first, "hits"), count(first, "misses"), count(first, "puts")) == (0, 50, 50)
    assert (count(second, "hits"), count(second, "misses"), count(second, "puts")) == (50, 0, 0)
    served = {"model": "fake-images@1", "status": "ok"}
    assert second.metrics.registry.get_sample_value("millrace_results_total", served) == 50


async def test_records_in_flight_share_the_calls_to_the_store(start_life: StartLife) -> None:
    store = BrokenStore()
    engine = await start_life(store)
    await asyncio.gather(*(engine.submit(image_request(i % 10)) for i in range(1_000)))
    assert len(store.values) == 1_000
    assert store.calls.count("get") < 300


async def test_an_outcome_is_kept_before_it_is_given_out(start_life: StartLife) -> None:
    store = MemoryStore()
    engine = await start_life(store)
    request = image_request(3)
    await engine.submit(request)
    assert list(store.values) == [await key_of(request)]


async def test_a_repeated_stream_has_the_same_pieces_under_the_same_numbers(start_life: StartLife) -> None:
    store = MemoryStore()
    request = text_request("naïve 日本語 🙂", stream=True, temperature=1.5)
    pieces: list[TokenPiece] = []
    again: list[TokenPiece] = []
    outcome = await (await start_life(store)).submit(request, emit=pieces.append)
    second = await start_life(store)
    assert await second.submit(request, emit=again.append) == outcome
    assert again == pieces
    assert len(pieces) > 3
    assert second.runs == 0


async def test_a_stream_that_was_computed_unheard_is_one_piece(start_life: StartLife) -> None:
    store = MemoryStore()
    request = text_request("hello", stream=True)
    await (await start_life(store)).submit(request)
    again: list[TokenPiece] = []
    await (await start_life(store)).submit(request, emit=again.append)
    assert [(piece.index, piece.text, piece.finish_reason) for piece in again] == [(0, "hello", "stop")]


def variations(request: InferenceRequest) -> list[InferenceRequest]:
    replace = msgspec.structs.replace
    source = request.source
    return [
        replace(request, source=replace(source, offset=source.offset + 1_000_000)),
        replace(request, source=replace(source, partition=1)),
        replace(request, source=replace(source, topic="other")),
        replace(request, created_at_ms=request.created_at_ms + 1),
        replace(request, key=b"other"),
        replace(request, input=image_request(9).input),
        replace(request, parameters={"a": 1}),
    ]


async def test_another_record_even_at_the_same_place_is_computed(start_life: StartLife) -> None:
    engine = await start_life(MemoryStore())
    request = image_request(1)
    for variation in [request, *variations(request)]:
        await engine.submit(variation)
    assert (count(engine, "hits"), count(engine, "misses")) == (0, 8)


async def test_another_version_of_the_model_computes_anew(start_life: StartLife, tmp_path: Path) -> None:
    store = MemoryStore()
    request = image_request(4)
    outcome = await (await start_life(store)).submit(request)
    model = fake_classifier(tmp_path)
    card = msgspec.structs.replace(
        model.card, variants={"int8": msgspec.structs.replace(model.card.variants["int8"], sha256="7" * 64)}
    )
    second = await start_life(store, models=[msgspec.structs.replace(model, card=card)])
    assert (await second.submit(request)).id != outcome.id
    assert second.runs == 1


async def test_a_large_image_is_found_again(start_life: StartLife) -> None:
    store = MemoryStore()
    noise = np.random.default_rng(0).integers(0, 256, (300, 300), np.uint8)
    request = image_request(data=encoded(Image.fromarray(noise), "PNG"))
    assert isinstance(request.input, ImageInput)
    assert len(request.input.data) > SMALL_BYTES
    outcome = await (await start_life(store)).submit(request)
    second = await start_life(store)
    assert await second.submit(request) == outcome
    assert second.runs == 0


async def test_an_error_is_not_kept(start_life: StartLife) -> None:
    store = MemoryStore()
    request = image_request(66)
    first = await start_life(store, backend=FakeBackend(fault=lambda pixels: bool((pixels == 66).any())))
    with pytest.raises(InferenceError):
        await first.submit(request)
    assert store.values == {}
    assert (await (await start_life(store)).submit(request)).status == "ok"


async def test_an_expired_outcome_is_not_kept_but_a_kept_one_does_not_expire(
    start_life: StartLife, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    hour_ms = 3_600_000
    late = image_request(1, expires_at_ms=1)
    soon = image_request(2, expires_at_ms=int(time.time() * 1_000) + hour_ms)
    first = await start_life(store)
    assert (await first.submit(late)).status == "expired"
    assert store.values == {}
    outcome = await first.submit(soon)
    assert outcome.status == "ok"
    monkeypatch.setattr("pipeline.engine._now_ms", lambda: int(time.time() * 1_000) + 2 * hour_ms)
    second = await start_life(store)
    assert (await second.submit(msgspec.structs.replace(soon, created_at_ms=1))).status == "expired"
    assert await second.submit(soon) == outcome
    assert (await second.submit(late)).status == "expired"


@pytest.mark.parametrize("value", [b"", b"\xff", b"{}", b'{"outcome":{"id":"x"}}'])
async def test_a_kept_value_that_cannot_be_read_is_computed_again(
    start_life: StartLife, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    request = image_request(5)
    store = MemoryStore()
    store.put({await key_of(request): value})
    engine = await start_life(store)
    assert (await engine.submit(request)).status == "ok"
    assert count(engine, "errors", operation="get") == 1
    assert "cannot be read" in caplog.text


async def test_an_outcome_of_another_record_is_not_given_out(start_life: StartLife) -> None:
    store = MemoryStore()
    engine = await start_life(store)
    one, two = image_request(1), image_request(2)
    await engine.submit(one)
    store.put({await key_of(two): next(iter(store.values.values()))})
    assert (await engine.submit(two)).source == two.source


@pytest.mark.parametrize("error", [ResultStoreError("it is told to fail"), OSError("disk"), SettingsError("replaced")])
@pytest.mark.parametrize("broken", ["get", "put", "all"])
async def test_a_store_that_fails_fails_no_record_and_warns_once(
    start_life: StartLife, broken: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    store = BrokenStore()
    engine = await start_life(store)
    store.broken, store.error = broken, error
    outcomes = [await engine.submit(image_request(i % 10)) for i in range(50)]
    assert [outcome.status for outcome in outcomes] == ["ok"] * 50
    warnings = [line for line in caplog.records if line.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert str(error) in warnings[0].getMessage()
    assert sum(count(engine, "errors", operation=operation) for operation in ("get", "put")) >= 1


async def test_a_store_that_works_again_is_used_again(start_life: StartLife, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = BrokenStore()
    engine = await start_life(store)
    store.broken = "all"
    await engine.submit(image_request(1))
    assert store.values == {}
    store.broken = ""

    async def serves_again() -> None:
        while "serves again" not in caplog.text:
            await engine.submit(image_request(2))
            await asyncio.sleep(0.01)

    await asyncio.wait_for(serves_again(), PATIENCE_S)
    request = image_request(3)
    await engine.submit(request)
    assert await key_of(request) in store.values


async def test_a_store_that_cannot_keep_is_still_asked(start_life: StartLife) -> None:
    store = BrokenStore()
    request = image_request(1)
    await (await start_life(store)).submit(request)
    second = await start_life(store)
    store.broken = "put"
    for i in range(5):
        await second.submit(image_request(i))
    runs = second.runs
    await second.submit(request)
    assert second.runs == runs


async def test_a_silent_store_costs_one_wait_and_then_none(start_life: StartLife) -> None:
    store = BrokenStore()
    engine = await start_life(store, timeout_s=0.4)
    store.broken, store.hang_until = "all", threading.Event()
    try:
        outcomes = await asyncio.gather(*(engine.submit(image_request(i % 10)) for i in range(100)))
        outcomes += [await engine.submit(image_request(i % 10)) for i in range(50)]
        assert {outcome.status for outcome in outcomes} == {"ok"}
        assert store.calls.count("get") == 1, "a call that hangs is not followed by more, and so costs no more waits"
    finally:
        store.hang_until.set()
    store.broken = ""
    request = image_request(3)
    key = await key_of(request)

    async def kept() -> None:
        while key not in store.values:
            await engine.submit(request)
            await asyncio.sleep(0.01)

    await asyncio.wait_for(kept(), PATIENCE_S)


async def test_a_store_that_is_away_at_the_start_stops_nothing(
    start_life: StartLife, caplog: pytest.LogCaptureFixture
) -> None:
    store = BrokenStore()
    store.broken = "open"
    engine = await start_life(store)
    assert "it is told to fail" in caplog.text
    assert (await engine.submit(image_request(1))).status == "ok"
    await asyncio.sleep(0.1)
    await engine.submit(image_request(2))
    await until(lambda: len(store.values) == 1, "the second record is kept")


async def test_a_store_that_is_set_wrongly_stops_the_start(start_life: StartLife) -> None:
    store = BrokenStore()
    store.broken, store.error = "open", SettingsError("settings: results.store: no such folder")
    with pytest.raises(SettingsError, match="no such folder"):
        await start_life(store)


async def test_closing_ends_with_records_waiting_for_the_store(start_life: StartLife) -> None:
    store = BrokenStore()
    engine = await start_life(store)
    store.broken, store.hang_until = "get", threading.Event()
    waiting = [asyncio.ensure_future(engine.submit(image_request(i))) for i in range(3)]
    await until(lambda: "get" in store.calls, "the store is asked")
    closing = asyncio.ensure_future(engine.close())
    await asyncio.sleep(0.05)
    store.hang_until.set()
    await asyncio.wait_for(closing, PATIENCE_S)
    results: list[Outcome | BaseException] = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, MillraceError) for result in results)
