"""The steady producer: records at a constant rate, and a ledger of what Kafka said that it took."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, Producer

from pipeline.settings import Settings
from tests.chaos.records import draw_record

__all__ = ["Place", "Sender"]

TICK_S = 0.02
FLUSH_TIMEOUT_S = 330.0
"""More than librdkafka takes to give up on a record."""
Place = tuple[str, int, int]
"""Topic, partition and offset: a record's name."""


class Sender(threading.Thread):
    """Sends records drawn from ``draw`` until stopped; idempotent, every replica in sync must have them.

    Args:
        settings: where to.
        rate: records a second.
        draw: makes the records.

    Attributes:
        acked: the moment (milliseconds since the epoch) of each record that Kafka took.
        refused: reasons why it did not take others.
    """

    def __init__(self, settings: Settings, rate: float, draw: random.Random) -> None:
        super().__init__(name="chaos-sender", daemon=True)
        self.acked: dict[Place, int] = {}
        self.refused: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self._kafka = settings.kafka
        self._rate = rate
        self._draw = draw
        self._number = 0
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._producer = Producer(
            {
                "bootstrap.servers": settings.kafka.bootstrap_servers,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 10,
                "log_level": 0,
            }
        )

    def run(self) -> None:
        """Send what is due, again and again; then flush."""
        try:
            self._send_all()
        except BaseException as error:  # the run must not go on as if records had been sent
            self._error = error

    def _send_all(self) -> None:
        start = time.monotonic()
        while not self._stopping.is_set():
            due = int((time.monotonic() - start) * self._rate)
            while self._number < due and not self._stopping.is_set():
                self._send()
            self._producer.poll(TICK_S)
        self._producer.flush(FLUSH_TIMEOUT_S)

    def abandon(self) -> None:
        """Send no more, and forget what Kafka has not answered for."""
        self._stopping.set()
        self._producer.purge()

    def stop(self) -> None:
        """Send no more; returns when Kafka has answered for every record."""
        self._stopping.set()
        self.join()
        if self._error is not None:
            raise self._error

    def _send(self) -> None:
        record = draw_record(self._number, self._draw, self._kafka)
        self._number += 1
        try:
            self._producer.produce(
                record.topic,
                record.value,
                record.key,
                headers=record.headers,
                on_delivery=partial(self._report, record.kind),
            )
        except BufferError:
            self._producer.poll(0.5)  # Kafka is away; the steady rate has a gap here

    def _report(self, kind: str, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self.refused[error.str()] += 1
            return
        self.kinds[kind] += 1
        # Without an offset, Kafka has had it since an earlier try whose answer was lost, and does not say where.
        if message.offset() is not None:
            self.acked[message.topic(), message.partition(), message.offset()] = message.timestamp()[1]
