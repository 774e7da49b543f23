"""One record that breaks its batch, through a real Kafka: it alone becomes a dead letter."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from agents.app import create_app
from pipeline.engine import Engine
from pipeline.runtime.fakes import FakeBackend, fake_classifier
from pipeline.settings import BatchingSettings, KafkaSettings, Settings
from tests.records import committed, produce, read, read_outcomes
from tests.unit.pipeline.helpers import png
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.integration

PLUG, POISON, CULPRIT = 99, 66, 13


class Device:
    """Fails on the poison; its first batch, the plug, is held until the others have come together behind it."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.held, self.released = threading.Event(), threading.Event()

    def __call__(self, pixels: Any) -> bool:
        shades = pixels.reshape(len(pixels), -1)[:, 0]
        if PLUG in shades:
            self.sizes.clear()
            self.held.set()
            assert self.released.wait(2 * PATIENCE_S)
            return False
        self.sizes.append(len(pixels))
        return POISON in shades


async def test_one_poison_record_in_a_batch_of_64_is_a_dead_letter_and_63_are_answered(
    kafka_settings: KafkaSettings, tmp_path: Path
) -> None:
    settings = Settings(kafka=kafka_settings, batching=BatchingSettings(max_batch_size=64))
    device = Device()
    engine = Engine(settings, [fake_classifier(tmp_path)], backend=FakeBackend(fault=device))
    app = create_app(settings, engine)
    values = [png(POISON if place == CULPRIT else place % 10) for place in range(64)]
    try:
        await app.start()
        produce(settings, settings.kafka.images, [("plug", png(PLUG))])
        await until(device.held.is_set, "the device runs the plug")
        produce(settings, settings.kafka.images, [(str(place), value) for place, value in enumerate(values)])
        await until(lambda: len(engine._pending) == 65, "all records are ready to run behind the plug")
        device.released.set()
        found = await asyncio.to_thread(read_outcomes, settings, settings.kafka.image_results, 65)
    finally:
        device.released.set()
        await app.stop()
    by_key = {outcome["key"]: outcome for outcome in found}
    assert len(found) == len(by_key) == 65
    assert by_key.pop("plug")["status"] == "ok"
    failed = by_key.pop(str(CULPRIT))
    assert (failed["status"], failed["error"]["code"]) == ("error", "inference_error")
    assert {key: outcome["output"]["labels"][0]["label"] for key, outcome in by_key.items()} == {
        str(place): str(place % 10) for place in range(64) if place != CULPRIT
    }
    (letter,) = await asyncio.to_thread(read, settings, settings.kafka.dead_letters, 1)
    assert (letter.key(), letter.value()) == (str(CULPRIT).encode(), values[CULPRIT])
    assert device.sizes[:2] == [64, 64]
    assert len(device.sizes) - 1 <= 8
    assert await asyncio.to_thread(committed, settings, settings.kafka.images) == 65
