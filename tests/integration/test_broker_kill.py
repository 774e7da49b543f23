"""The only broker is killed under load and comes back: the worker goes on, and nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from agents.broker import EmbeddedBroker
from pipeline.settings import BrokerSettings, KafkaSettings, Settings
from tests.records import committed, grey_pixel_png, produce, read_outcomes, sources
from tests.workers import StartWorker, wait_until_committed

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

RECORDS = 2_000


@pytest.fixture
def broker(broker_settings: BrokerSettings) -> Iterator[EmbeddedBroker]:
    broker = EmbeddedBroker(broker_settings)
    broker.start(owned=True)
    yield broker
    broker.stop()


@pytest.fixture
def kafka(broker: EmbeddedBroker) -> str:
    """Instead of the broker that all tests share."""
    status = broker.status()
    assert status is not None
    return status.bootstrap_servers


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_the_only_broker_is_killed_and_restarted_under_load(
    delivery: str, broker: EmbeddedBroker, start_worker: StartWorker, kafka_settings: KafkaSettings
) -> None:
    settings = Settings(kafka=kafka_settings)
    images = [(f"k{i % 50}", grey_pixel_png()) for i in range(RECORDS)]
    produce(settings, kafka_settings.images, images)
    environ = {"MILLRACE_WORKER__DELIVERY": delivery, "MILLRACE_WORKER__MAX_IN_FLIGHT_RECORDS": "64"}
    worker = start_worker(models="digits-tiny", environ=environ)
    wait_until_committed(worker, settings, kafka_settings.images, 50)
    os.kill(broker.node_pids()[1], signal.SIGKILL)
    while broker.node_pids():
        time.sleep(0.05)
    time.sleep(2)
    broker.start()
    assert committed(settings, kafka_settings.images) < RECORDS, "the worker was too quick to be hit"

    wait_until_committed(worker, settings, kafka_settings.images, RECORDS)
    found = read_outcomes(settings, kafka_settings.image_results, RECORDS)
    assert len(sources(found)) == RECORDS
    assert len({outcome["id"] for outcome in found}) == RECORDS, "a repeated outcome must have the id of the first"
    if delivery == "exactly_once":
        assert len(found) == RECORDS
