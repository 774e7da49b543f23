"""The publisher: records out, and word of each when the brokers have it.

One idempotent producer, so a retry inside librdkafka neither repeats nor reorders. Delivery reports are gathered on a
thread of the publisher's own; whatever one poll brought is settled in one callback of the event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer

from pipeline.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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


class Parcel:
    """Records whose delivery is told as one: how many are under way, and the first error among them."""

    __slots__ = ("delivered", "error", "left")

    def __init__(self, left: int, delivered: Callable[[TransportError | None], None]) -> None:
        self.left = left
        self.delivered = delivered
        self.error: TransportError | None = None


class Publisher:
    """Produces records. Made and used on one event loop.

    While librdkafka's queue is full, records wait here in order; how many can wait is bounded by what the worker holds.

    Args:
        config: librdkafka settings of the producer.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._producer = Producer(dict(config))
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[OutgoingRecord, Parcel]] = deque()
        self._reports: deque[tuple[Parcel, TransportError | None]] = deque()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve_reports, name="kafka-reports", daemon=True)
        self._thread.start()

    def publish(self, records: Sequence[OutgoingRecord], delivered: Callable[[TransportError | None], None]) -> None:
        """Hand ``records`` to the producer, in order.

        ``delivered`` is called once, later, on the event loop: with ``None`` when every in-sync replica has all of
        them, or with the error when one was refused or not delivered within ``kafka.delivery_timeout_s``.
        """
        parcel = Parcel(len(records), delivered)
        for record in records:
            if self._waiting or not self._try_produce(record, parcel):
                self._waiting.append((record, parcel))

    async def close(self, timeout_s: float) -> int:
        """Wait for what is under way, at most ``timeout_s``. Returns how many records were not delivered."""
        left = await asyncio.to_thread(self._producer.flush, timeout_s)
        self._stopping.set()
        await asyncio.to_thread(self._thread.join)
        self._settle()
        return int(left) + len(self._waiting)

    def _try_produce(self, record: OutgoingRecord, parcel: Parcel) -> bool:
        """False when the queue is full; of a record that is refused outright the report is there at once."""

        def on_delivery(error: KafkaError | None, _message: Message) -> None:
            self._reports.append((parcel, None if error is None else _refusal(record.topic, error)))

        try:
            self._producer.produce(
                record.topic, record.value, record.key, headers=record.headers, on_delivery=on_delivery
            )
        except BufferError:
            return False
        except KafkaException as error:
            self._reports.append((parcel, _refusal(record.topic, error.args[0])))
            self._loop.call_soon(self._settle)
        return True

    # The reports thread.

    def _serve_reports(self) -> None:
        while not self._stopping.is_set():
            if self._producer.poll(POLL_S):
                self._loop.call_soon_threadsafe(self._settle)

    # The event loop.

    def _settle(self) -> None:
        for _ in range(len(self._reports)):
            parcel, error = self._reports.popleft()
            parcel.left -= 1
            parcel.error = parcel.error or error
            if parcel.left == 0:
                parcel.delivered(parcel.error)
        while self._waiting and self._try_produce(*self._waiting[0]):
            self._waiting.popleft()


def _refusal(topic: str, error: KafkaError) -> TransportError:
    hint = ""
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        hint = f" Raise max.message.bytes of {topic}: `millrace topics` sets it as kafka.max_message_bytes asks."
    return TransportError(f"a record for {topic} was not delivered: {error.str()}.{hint}")
