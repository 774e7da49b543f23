"""The whole path through a real Kafka with an engine on fakes: what is promised of every record, whatever the model."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agents.app import InferenceApp, create_app
from agents.topics import create_topics
from pipeline.engine import Engine
from pipeline.runtime.fakes import FakeBackend, fake_classifier, fake_generator
from pipeline.settings import BatchingSettings, KafkaSettings, Settings, WorkerSettings
from tests.records import committed, grey_pixel_png, produce, read, read_outcomes, sources
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.integration

StartApp = Callable[..., Awaitable[InferenceApp]]


@pytest.fixture(params=["at_least_once", "exactly_once"])
def settings(request: pytest.FixtureRequest, kafka: str, topic_prefix: str) -> Settings:
    names = KafkaSettings(
        bootstrap_servers=kafka, topic_prefix=topic_prefix, group_id=topic_prefix, session_timeout_s=6
    )
    made = Settings(
        kafka=names,
        worker=WorkerSettings(
            delivery=request.param, commit_interval_s=0.1, max_in_flight_records=64, drain_timeout_s=10
        ),
        batching=BatchingSettings(max_length=64),
    )
    create_topics(made)
    return made


@pytest.fixture
async def start_app(settings: Settings, tmp_path: Path) -> AsyncIterator[StartApp]:
    """Starts workers in this process; each is stopped at the end of the test."""
    apps: list[InferenceApp] = []

    async def start(backend: FakeBackend | None = None, **worker: Any) -> InferenceApp:
        mine = replace(settings, worker=replace(settings.worker, **worker))
        models = [fake_generator(tmp_path), fake_classifier(tmp_path)]
        app = create_app(mine, Engine(mine, models, backend=backend or FakeBackend()))
        apps.append(app)
        await app.start()
        return app

    yield start
    for app in apps:
        await app.stop()


async def outcomes(settings: Settings, topic: str, count: int) -> list[dict[str, Any]]:
    return await asyncio.to_thread(read_outcomes, settings, topic, count)


async def test_every_record_gets_one_outcome_and_only_then_is_committed(
    settings: Settings, start_app: StartApp
) -> None:
    app = await start_app()
    sent = produce(settings, settings.kafka.prompts, [(f"k{i % 7}", f"prompt {i}".encode()) for i in range(300)])
    found = await outcomes(settings, settings.kafka.prompt_results, sent)
    assert sources(found) == Counter(dict.fromkeys(sources(found), 1))
    assert len(found) == sent
    assert {outcome["status"] for outcome in found} == {"ok"}
    await app.stop()
    assert committed(settings, settings.kafka.prompts) == sent


async def test_outcomes_of_one_key_come_in_the_order_of_its_records(settings: Settings, start_app: StartApp) -> None:
    await start_app()
    values = [b"" if i % 5 == 0 else b"x" * (i % 9 + 1) for i in range(200)]
    sent = produce(settings, settings.kafka.prompts, [(f"k{i % 4}", value) for i, value in enumerate(values)])
    messages = await asyncio.to_thread(read, settings, settings.kafka.prompt_results, sent)
    by_key: dict[bytes, list[int]] = {}
    for message in messages:
        by_key.setdefault(message.key(), []).append(json.loads(message.value())["source"]["offset"])
    assert sum(map(len, by_key.values())) == sent
    assert all(offsets == sorted(offsets) for offsets in by_key.values())


async def test_records_that_cannot_be_served_get_an_error_and_a_dead_letter_with_their_bytes(
    settings: Settings, start_app: StartApp
) -> None:
    await start_app()
    bad = [b"", None, b"\xff\xfe\xfa", b'{"prompt": "a", "max_tokens": -1}', b'{"prompt": ']
    produce(settings, settings.kafka.prompts, [("good", b"before"), *(("bad", value) for value in bad)])
    produce(settings, settings.kafka.prompts, [("good", b"after")])
    found = await outcomes(settings, settings.kafka.prompt_results, len(bad) + 2)
    assert Counter(outcome["status"] for outcome in found) == {"ok": 2, "error": len(bad)}
    letters = await asyncio.to_thread(read, settings, settings.kafka.dead_letters, len(bad))
    assert sorted(letter.value() or b"" for letter in letters) == sorted(value or b"" for value in bad)
    headers = dict(letters[0].headers())
    assert headers["__connect.errors.topic"].decode() == settings.kafka.prompts


async def test_a_restarted_worker_serves_only_what_was_not_committed(settings: Settings, start_app: StartApp) -> None:
    first = await start_app()
    produce(settings, settings.kafka.prompts, [(None, b"one")])
    await outcomes(settings, settings.kafka.prompt_results, 1)
    await first.stop()
    produce(settings, settings.kafka.prompts, [(None, b"two")])
    await start_app()
    found = await outcomes(settings, settings.kafka.prompt_results, 2)
    assert sorted(outcome["output"]["text"] for outcome in found) == ["one", "two"]


async def test_two_workers_share_the_partitions_and_repeat_nothing(settings: Settings, start_app: StartApp) -> None:
    await start_app()
    sent = produce(settings, settings.kafka.prompts, [(f"k{i}", b"first") for i in range(200)])
    await outcomes(settings, settings.kafka.prompt_results, sent)
    second = await start_app()
    await until(lambda: second.delivery.poller.assignment, "the second worker gets partitions")
    sent += produce(settings, settings.kafka.prompts, [(f"k{i}", b"second") for i in range(200)])
    found = await outcomes(settings, settings.kafka.prompt_results, sent)
    assert len(found) == sent
    assert max(sources(found).values()) == 1


async def test_the_new_group_protocol_serves_too(settings: Settings, tmp_path: Path) -> None:
    mine = replace(settings, kafka=replace(settings.kafka, group_protocol="consumer", group_instance_id="worker-1"))
    app = create_app(mine, Engine(mine, [fake_generator(tmp_path)], backend=FakeBackend()))
    try:
        await app.start()
        sent = produce(mine, mine.kafka.prompts, [(f"k{i}", b"hello") for i in range(100)])
        found = await outcomes(mine, mine.kafka.prompt_results, sent)
    finally:
        await app.stop()
    assert len(found) == sent
    assert await asyncio.to_thread(committed, mine, mine.kafka.prompts) >= sent


async def test_a_stalled_topic_does_not_hold_up_the_other(settings: Settings, start_app: StartApp) -> None:
    stop = False

    def slow(array: Any) -> bool:
        if array.ndim == 2 and not stop:
            time.sleep(0.2)
        return False

    await start_app(FakeBackend(fault=slow))
    prompts = produce(settings, settings.kafka.prompts, [(None, b"a long prompt, slowly echoed")] * 400)
    sent = produce(settings, settings.kafka.images, [(None, grey_pixel_png())] * 20)
    found = await outcomes(settings, settings.kafka.image_results, sent)
    still_waiting = committed(settings, settings.kafka.prompts) < prompts
    stop = True
    assert len(found) == sent
    assert still_waiting, "the images waited for the prompts"


async def test_an_engine_that_fails_leaves_its_records_uncommitted(settings: Settings, start_app: StartApp) -> None:
    broken = False

    def fault(_: Any) -> bool:
        return broken

    app = await start_app(FakeBackend(fault=fault))
    broken = True
    sent = produce(settings, settings.kafka.images, [(None, grey_pixel_png())] * 10)
    await asyncio.wait_for(asyncio.shield(app.delivery.failed), PATIENCE_S)
    await app.stop()
    assert committed(settings, settings.kafka.images) == 0
    await start_app()
    found = await outcomes(settings, settings.kafka.image_results, sent)
    assert len(found) == sent
    assert {outcome["status"] for outcome in found} == {"ok"}


async def test_a_device_that_never_answers_ends_the_worker_with_its_records_uncommitted(
    settings: Settings, start_app: StartApp
) -> None:
    hanging, answer, image = threading.Event(), threading.Event(), grey_pixel_png()

    def hang(_: Any) -> bool:
        if hanging.is_set():
            answer.wait()
        return False

    async def feed() -> None:
        while True:
            await asyncio.to_thread(produce, settings, settings.kafka.images, [(str(i), image) for i in range(8)])
            await asyncio.sleep(0.5)

    app = await start_app(FakeBackend(fault=hang), watchdog_timeout_s=2, drain_timeout_s=0.1)
    hanging.set()
    feeding = asyncio.create_task(feed())
    try:
        failure = await asyncio.wait_for(asyncio.shield(app.delivery.failed), PATIENCE_S)
        assert "no record was served for 2 s while more arrived" in str(failure)
        assert await asyncio.to_thread(committed, settings, settings.kafka.images) == 0
    finally:
        feeding.cancel()
        answer.set()
