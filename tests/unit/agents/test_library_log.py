from __future__ import annotations

import logging

from agents.library_log import INTERVAL_S, Calm

REFUSED = "FAIL [rdkafka#%s] [thrd:a:9092/1]: a:9092/1: Connect to ipv4#a:9092 failed: Connection refused"


class Log:
    """A filtered log and its clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self._calm = Calm(lambda: self.now)

    def says(self, text: str, *args: str) -> str | None:
        record = logging.LogRecord("kafka", logging.ERROR, __file__, 1, text, args, None)
        return record.getMessage() if self._calm.filter(record) else None


def test_a_client_says_once_that_a_connection_failed() -> None:
    log = Log()
    assert log.says(REFUSED, "consumer-2") == REFUSED % "consumer-2"
    assert log.says(REFUSED, "consumer-2") is None


def test_every_client_says_so_itself() -> None:
    log = Log()
    log.says(REFUSED, "consumer-2")
    assert log.says(REFUSED, "producer-1") is not None


def test_after_a_while_it_says_so_again_and_how_often_it_did_not() -> None:
    log = Log()
    for _ in range(5):
        log.says(REFUSED, "consumer-2")
    log.now += INTERVAL_S
    assert log.says(REFUSED, "consumer-2") == REFUSED % "consumer-2" + " (4 more left out)"
    log.now += INTERVAL_S
    assert log.says(REFUSED, "consumer-2") == REFUSED % "consumer-2"


def test_everything_else_is_said_every_time() -> None:
    log = Log()
    text = "SESSTMOUT [rdkafka#consumer-2] [thrd:main]: Consumer group session timed out"
    assert log.says(text) == log.says(text) == text


def test_a_fresh_broker_that_loads_its_coordinator_is_not_mentioned() -> None:
    assert Log().says("GETPID [rdkafka#producer-3] [thrd:main]: Broker: Coordinator load in progress: retrying") is None
