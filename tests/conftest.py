from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest

from agents.broker import EmbeddedBroker
from agents.topics import create_topics
from pipeline.settings import BrokerSettings, KafkaSettings, Settings
from tests.workers import TINY, StartWorker, Worker, running_worker, worker_environ

# How long an example takes, or drawing it, says what the machine has to do besides.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of a real Kafka that lives as long as the test run, also when the run is killed."""
    broker = EmbeddedBroker(BrokerSettings(data=str(tmp_path_factory.mktemp("kafka")), start_timeout_s=180))
    yield broker.start(owned=True).bootstrap_servers
    broker.stop()


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for topics and groups that no other test uses."""
    return f"test-{secrets.token_hex(6)}."


@pytest.fixture
def kafka_settings(kafka: str, topic_prefix: str) -> KafkaSettings:
    """Topics and a consumer group of one test's own, created."""
    settings = KafkaSettings(bootstrap_servers=kafka, topic_prefix=topic_prefix, group_id=topic_prefix, partitions=2)
    create_topics(Settings(kafka=settings))
    return settings


@pytest.fixture
def start_worker(kafka_settings: KafkaSettings, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts a worker on this test's topics and waits until it serves; stops it after the test."""
    with ExitStack() as stack:

        def start(
            python: Path | str = sys.executable, *, models: str = TINY, environ: Mapping[str, str] | None = None
        ) -> Worker:
            variables = {**os.environ, **worker_environ(kafka_settings, models), **(environ or {})}
            return stack.enter_context(running_worker(python, variables, tmp_path))

        yield start
