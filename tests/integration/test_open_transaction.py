"""A producer of the input topics holds a transaction open: nothing behind it may be read, which is nobody's fault."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import Producer

from pipeline.settings import KafkaSettings, Settings
from tests.records import committed, grey_pixel_png, produce
from tests.workers import StartWorker, wait_until_committed

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

WATCHDOG_S = 4.0


def test_a_worker_waits_for_a_transaction_that_a_producer_left_open(
    start_worker: StartWorker, kafka_settings: KafkaSettings
) -> None:
    settings = Settings(kafka=kafka_settings)
    upstream = Producer(
        {
            "bootstrap.servers": kafka_settings.bootstrap_servers,
            "transactional.id": kafka_settings.group_id,
            "transaction.timeout.ms": 600_000,  # however long the worker takes to start
        }
    )
    upstream.init_transactions(30)
    upstream.begin_transaction()
    for partition in range(kafka_settings.partitions):
        upstream.produce(kafka_settings.images, grey_pixel_png(), partition=partition)
    upstream.flush()
    worker = start_worker(models="digits-tiny", environ={"MILLRACE_WORKER__WATCHDOG_TIMEOUT_S": str(WATCHDOG_S)})
    sent, until = 0, time.monotonic() + WATCHDOG_S + 12
    while time.monotonic() < until:  # the log grows, and none of it may be read
        sent += produce(settings, kafka_settings.images, [(f"k{sent + i}", grey_pixel_png()) for i in range(8)])
        assert worker.process.poll() is None, "the watchdog took an open transaction for a worker that stands still"
        time.sleep(0.5)
    assert committed(settings, kafka_settings.images) == 0
    upstream.commit_transaction(30)
    wait_until_committed(worker, settings, kafka_settings.images, sent + kafka_settings.partitions)
