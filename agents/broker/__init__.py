"""The embedded broker: Apache Kafka that needs nothing but Python. See docs/broker.md."""

from __future__ import annotations

from agents.broker.embedded import BrokerInfo, EmbeddedBroker
from agents.broker.layout import KAFKA_PORT
from agents.broker.properties import RESERVED as RESERVED_PROPERTIES

__all__ = ["KAFKA_PORT", "RESERVED_PROPERTIES", "BrokerInfo", "EmbeddedBroker"]
