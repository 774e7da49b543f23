from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

import agents.transactions
from agents.transactions import Transactions


class FencedProducer:
    """Refuses everything once another instance has its id, or its coordinator has ended its transaction."""

    def __init__(self, config: Any) -> None:
        pass

    def purge(self) -> None:
        pass

    def flush(self, timeout: float) -> int:
        raise KafkaException(KafkaError(KafkaError._FENCED, "fenced", fatal=True))


def test_a_fenced_producer_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents.transactions, "Producer", FencedProducer)
    Transactions({}, timeout_s=1).close()
