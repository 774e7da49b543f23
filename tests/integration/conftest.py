from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.broker import EmbeddedBroker
from pipeline.settings import BrokerSettings


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of a real Kafka that lives as long as the test run, also when the run is killed."""
    broker = EmbeddedBroker(BrokerSettings(data=str(tmp_path_factory.mktemp("kafka"))))
    yield broker.start(owned=True).bootstrap_servers
    broker.stop()


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for topics and groups that no other test uses."""
    return f"test-{secrets.token_hex(6)}."


@pytest.fixture
def broker_settings(tmp_path: Path) -> BrokerSettings:
    """Settings of a broker of one test's own."""
    return BrokerSettings(data=str(tmp_path / "broker"), heap_mib=256)
