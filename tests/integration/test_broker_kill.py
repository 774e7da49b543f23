"""The only broker is killed under load and comes back: the worker goes on, and nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from agents.broker import EmbeddedBroker
from pipeline.settings import BrokerSettings, KafkaSettings, Settings
from tests.records import grey_pixel_png, produce, read_outcomes, sources
from tests.waiting import wait_until
from tests.workers import StartWorker, wait_until_committed

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

RECORDS = 2_000
FIRST_PART = 200
IN_FLIGHT = 64


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
    produce(settings, kafka_settings.images, images[:FIRST_PART])
    environ = {"MILLRACE_WORKER__DELIVERY": delivery, "MILLRACE_WORKER__MAX_IN_FLIGHT_RECORDS": str(IN_FLIGHT)}
    worker = start_worker(models="digits-tiny", environ=environ)
    wait_until_committed(worker, settings, kafka_settings.images, 50)
    produce(settings, kafka_settings.images, images[FIRST_PART:])  # in its hands by now, and far from done
    os.kill(broker.node_pids()[1], signal.SIGKILL)
    killed_ms = time.time() * 1_000
    wait_until(lambda: not broker.node_pids(), "the broker that was killed is gone")
    time.sleep(2)
    broker.start()

    wait_until_committed(worker, settings, kafka_settings.images, RECORDS)
    found = read_outcomes(settings, kafka_settings.image_results, RECORDS)
    assert len(sources(found)) == RECORDS
    late = sum(outcome["created_at_ms"] > killed_ms for outcome in found)
    assert IN_FLIGHT < late < RECORDS, "the worker was not hit in the middle"
    assert len({outcome["id"] for outcome in found}) == RECORDS, "a repeated outcome must have the id of the first"
    if delivery == "exactly_once":
        assert len(found) == RECORDS
