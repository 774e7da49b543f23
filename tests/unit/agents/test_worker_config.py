"""``kafka.client`` reaches every client, and cannot change what delivery depends on."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest

import agents.topics
from agents.kafka_clients import sender_config, tailer_config
from agents.topics import create_topics
from agents.worker_config import consumer_config, producer_config, transaction_config
from pipeline.settings import KafkaSettings, Settings

SECURITY = {
    "security.protocol": "SASL_SSL",
    "sasl.mechanism": "SCRAM-SHA-512",
    "sasl.username": "millrace",
    "sasl.password": "secret",
    "ssl.ca.location": "/etc/kafka/ca.pem",
    "client.dns.lookup": "resolve_canonical_bootstrap_servers_only",
}


def settings(**client: str) -> Settings:
    return Settings(kafka=KafkaSettings(bootstrap_servers="kafka:9093", client={**SECURITY, **client}))


@pytest.mark.parametrize(
    "config_of", [consumer_config, producer_config, transaction_config, sender_config, tailer_config]
)
def test_every_client_gets_the_security_settings(config_of: Any) -> None:
    config = config_of(settings())
    assert SECURITY.items() <= config.items()
    assert config["bootstrap.servers"] == "kafka:9093"


def test_the_admin_client_gets_the_security_settings() -> None:
    class AskedError(Exception):
        pass

    def admin(config: dict[str, Any]) -> None:
        assert SECURITY.items() <= config.items()
        raise AskedError

    with patch.object(agents.topics, "AdminClient", admin), pytest.raises(AskedError):
        create_topics(settings())


def test_what_delivery_depends_on_cannot_be_changed_by_it() -> None:
    changed = {"enable.auto.commit": "true", "isolation.level": "read_uncommitted", "acks": "1"}
    mine = settings(**changed)
    assert consumer_config(mine)["enable.auto.commit"] is False
    assert consumer_config(mine)["isolation.level"] == "read_committed"
    assert producer_config(mine)["acks"] == "all"


def test_an_added_partition_is_noticed_within_half_a_minute() -> None:
    assert consumer_config(settings())["topic.metadata.refresh.interval.ms"] == 30_000
    assert (
        consumer_config(settings(**{"topic.metadata.refresh.interval.ms": "5000"}))[
            "topic.metadata.refresh.interval.ms"
        ]
        == "5000"
    )
