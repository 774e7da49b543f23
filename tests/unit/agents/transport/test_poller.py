"""The poll thread's end, without Kafka."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

import agents.transport.poller
from agents.ledger import Partition
from agents.transport.flow import Flow
from agents.transport.poller import Poller
from pipeline.errors import TransportError

PARTITION = Partition("prompts", 0)


class BrokenConsumer:
    """Gives one assignment, answers no commit, and cannot be closed."""

    def __init__(self, config: Any) -> None:
        pass

    def subscribe(self, topics: list[str], **callbacks: Any) -> None:
        pass

    def consume(self, number: int, timeout_s: float) -> list[Any]:
        return []

    def commit(self, **offsets: Any) -> None:
        pass

    def close(self) -> None:
        raise KafkaException(KafkaError(KafkaError._FATAL))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_commit_under_way_is_answered_even_when_the_consumer_cannot_be_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agents.transport.poller, "Consumer", BrokenConsumer)
    poller = Poller({}, {PARTITION.topic: Flow(max_records=1, max_bytes=1)})
    poller._assigned.add(PARTITION)
    listener: Any = None
    poller.begin(listener)
    answer = poller.commit({PARTITION: 5})
    poller.stop(10)
    assert isinstance(answer.exception(10), TransportError)
