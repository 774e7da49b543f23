"""The publisher: records out, each with a future that is done when the brokers have it.

One idempotent producer, so a retry inside librdkafka neither repeats nor reorders. Delivery reports arrive on a thread
of the publisher's own and are handed to the event loop in batches.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer

from pipeline.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from confluent_kafka import Message

__all__ = ["OutgoingRecord", "Publisher"]

POLL_S = 0.1
Headers = list[tuple[str, str | bytes | None]]


class OutgoingRecord(NamedTuple):
    """A record to produce."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


class Publisher:
    """Produces records. Made and used on one event loop.

    While librdkafka's queue is full, records wait here in order; how many can wait is bounded by what the worker holds.

    Args:
        config: librdkafka settings of the producer.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._producer = Producer(dict(config))
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[OutgoingRecord, asyncio.Future[None]]] = deque()
        self._reports: list[tuple[asyncio.Future[None], KafkaError | None, str]] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve_reports, name="kafka-reports", daemon=True)
        self._thread.start()

    def publish(self, records: Sequence[OutgoingRecord]) -> asyncio.Future[None]:
        """Hand ``records`` to the producer, in order.

        Returns:
            A future, done when every in-sync replica has all of them. It raises TransportError when one was refused
            or not delivered within ``kafka.delivery_timeout_s``.
        """
        futures = [self._publish(record) for record in records]
        return futures[0] if len(futures) == 1 else asyncio.ensure_future(_all_delivered(futures))

    async def close(self, timeout_s: float) -> int:
        """Wait for what is under way, at most ``timeout_s``. Returns how many records were not delivered."""
        left = await asyncio.to_thread(self._producer.flush, timeout_s)
        self._stopping.set()
        await asyncio.to_thread(self._thread.join)
        return int(left) + len(self._waiting)

    def _publish(self, record: OutgoingRecord) -> asyncio.Future[None]:
        delivered: asyncio.Future[None] = self._loop.create_future()
        if self._waiting or not self._try_produce(record, delivered):
            self._waiting.append((record, delivered))
        return delivered

    def _try_produce(self, record: OutgoingRecord, delivered: asyncio.Future[None]) -> bool:
        """False when the queue is full; a record that is refused outright fails its future."""

        def on_delivery(error: KafkaError | None, _message: Message) -> None:
            self._report(delivered, error, record.topic)

        try:
            self._producer.produce(
                record.topic, record.value, record.key, headers=record.headers, on_delivery=on_delivery
            )
        except BufferError:
            return False
        except KafkaException as error:
            delivered.set_exception(_refusal(record.topic, error.args[0]))
        return True

    # The reports thread, and the one that flushes.

    def _serve_reports(self) -> None:
        while not self._stopping.is_set():
            self._producer.poll(POLL_S)

    def _report(self, delivered: asyncio.Future[None], error: KafkaError | None, topic: str) -> None:
        with self._lock:
            self._reports.append((delivered, error, topic))
            first = len(self._reports) == 1
        if first:
            self._loop.call_soon_threadsafe(self._settle_reports)

    # The event loop.

    def _settle_reports(self) -> None:
        with self._lock:
            reports, self._reports = self._reports, []
        for delivered, error, topic in reports:
            if delivered.done():
                continue
            if error is None:
                delivered.set_result(None)
            else:
                delivered.set_exception(_refusal(topic, error))
        while self._waiting and self._try_produce(*self._waiting[0]):
            self._waiting.popleft()


def _refusal(topic: str, error: KafkaError) -> TransportError:
    hint = ""
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        hint = f" Raise max.message.bytes of {topic}: `millrace topics` sets it as kafka.max_message_bytes asks."
    return TransportError(f"a record for {topic} was not delivered: {error.str()}.{hint}")


async def _all_delivered(futures: Sequence[asyncio.Future[None]]) -> None:
    for future in futures:
        await future
