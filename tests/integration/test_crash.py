"""A worker killed in the middle of its work, and the next one that takes over."""

from __future__ import annotations

import pytest

from pipeline.settings import KafkaSettings, Settings
from tests.records import grey_pixel_png, produce, read_outcomes, sources
from tests.workers import StartWorker, wait_until_committed

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

RECORDS = 2_000
FIRST_PART = 200


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_worker_killed_in_the_middle_of_2000_records_loses_none(
    delivery: str, start_worker: StartWorker, kafka_settings: KafkaSettings
) -> None:
    settings = Settings(kafka=kafka_settings)
    environ = {
        "MILLRACE_WORKER__DELIVERY": delivery,
        "MILLRACE_KAFKA__SESSION_TIMEOUT_S": "6",
        "MILLRACE_WORKER__MAX_IN_FLIGHT_RECORDS": "64",
    }
    records = [(f"k{i % 50}", grey_pixel_png()) for i in range(RECORDS)]
    sent = produce(settings, kafka_settings.images, records[:FIRST_PART])
    first = start_worker(models="digits-tiny", environ=environ)
    wait_until_committed(first, settings, kafka_settings.images, 50)
    sent += produce(settings, kafka_settings.images, records[FIRST_PART:])  # in its hands by now, and far from done
    first.process.kill()
    first.process.wait()
    done_before = len(read_outcomes(settings, kafka_settings.image_results, RECORDS, timeout_s=0.5))
    assert done_before < sent, "the worker was too quick to be killed in the middle"

    second = start_worker(models="digits-tiny", environ=environ)
    wait_until_committed(second, settings, kafka_settings.images, sent)
    found = read_outcomes(settings, kafka_settings.image_results, sent)
    per_record = sources(found)
    assert len(per_record) == sent
    assert all(outcome["status"] == "ok" for outcome in found)
    assert len({outcome["id"] for outcome in found}) == sent, "a repeated outcome must have the id of the first"
    if delivery == "exactly_once":
        assert len(found) == sent
