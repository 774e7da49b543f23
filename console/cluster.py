"""Which Kafka a command talks to: the one that the settings name, else the embedded one that runs."""

from __future__ import annotations

import msgspec

from pipeline.errors import BrokerError
from pipeline.settings import Settings, load_settings

__all__ = ["at", "connected_settings"]


def at(settings: Settings, bootstrap_servers: str) -> Settings:
    """``settings`` with the Kafka at ``bootstrap_servers``."""
    kafka = msgspec.structs.replace(settings.kafka, bootstrap_servers=bootstrap_servers)
    return msgspec.structs.replace(settings, kafka=kafka)


def connected_settings() -> Settings:
    """The settings, with a Kafka to talk to. Raises BrokerError when none is named and none runs."""
    settings = load_settings()
    if settings.kafka.bootstrap_servers:
        return settings
    from agents.broker import EmbeddedBroker

    running = EmbeddedBroker(settings.broker).status()
    if running is None:
        raise BrokerError(
            "no broker runs. Start everything with `millrace up` (or only Kafka with `millrace broker start`), "
            "or set KAFKA_BOOTSTRAP_SERVERS."
        )
    return at(settings, running.bootstrap_servers)
