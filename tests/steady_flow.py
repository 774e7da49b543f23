"""Records that flow steadily into every partition, and when the outcomes of each come out."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from pipeline.settings import KafkaSettings

__all__ = ["SteadyFlow"]


class SteadyFlow:
    """Sends a record to every partition each ``interval_s`` seconds, and reads the outcomes as they are committed.

    Args:
        kafka: where the topics are.
        interval_s: between two records of one partition.
        topic: of the records; prompts by default.
        values: of the records, in turn.
        ahead: send no more while so many have no outcome yet, so that a slow worker is kept busy and not buried.

    Attributes:
        sent: records of each partition.
        outcomes: what has come out.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        interval_s: float,
        topic: str = "",
        values: Sequence[bytes] = (b"a prompt",),
        ahead: float = float("inf"),
    ) -> None:
        self._kafka = kafka
        self._interval_s = interval_s
        self._topic = topic or kafka.prompts
        self._values = itertools.cycle(values)
        self._ahead = ahead
        self.outcomes: list[dict[str, Any]] = []
        self.sent: Counter[int] = Counter()
        self._arrivals: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
        self._enough, self._ended = threading.Event(), threading.Event()
        self._sender = threading.Thread(target=self._send)
        self._reader = threading.Thread(target=self._read)

    def start(self) -> None:
        self._reader.start()
        self._sender.start()

    def finish(self, timeout_s: float) -> None:
        """Send no more, and wait until every record has an outcome, and for what may be repeated after that."""
        self._enough.set()
        self._sender.join()
        deadline = time.monotonic() + timeout_s
        while self._unanswered() > 0 and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)

    def not_once(self) -> list[tuple[int, int, int]]:
        """Partition, offset and number of outcomes of each record sent that does not have exactly one."""
        counts = {number: Counter(offset for _, offset in self._arrivals[number]) for number in self.sent}
        return [
            (number, offset, counts[number][offset])
            for number, sent in self.sent.items()
            for offset in range(sent)
            if counts[number][offset] != 1
        ]

    def stop(self) -> None:
        self._enough.set()
        self._sender.join()
        self._ended.set()
        self._reader.join()

    def longest_pause_s(self, partition: int, since: float, until: float) -> float:
        """The longest time between two outcomes of ``partition`` that touches the window."""
        times = [at for at, _ in self._arrivals[partition]]
        return max((b - a for a, b in itertools.pairwise(times) if b >= since and a <= until), default=until - since)

    def _unanswered(self) -> int:
        return self.sent.total() - len(self.outcomes)

    def _send(self) -> None:
        producer = Producer({"bootstrap.servers": self._kafka.bootstrap_servers})
        at = time.monotonic()
        while not self._enough.is_set():
            for number in range(self._kafka.partitions):
                producer.produce(self._topic, next(self._values), partition=number)
                self.sent[number] += 1
                at += self._interval_s / self._kafka.partitions
                time.sleep(max(0.0, at - time.monotonic()))
            producer.poll(0)
            while self._unanswered() >= self._ahead and not self._enough.is_set():
                time.sleep(0.002)
        producer.flush(30)

    def _read(self) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": self._kafka.bootstrap_servers,
                "group.id": "reader",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 10,
            }
        )
        partitions = range(self._kafka.partitions)
        consumer.assign([TopicPartition(f"{self._topic}.results", number, 0) for number in partitions])
        while not self._ended.is_set():
            found = consumer.consume(1, 0.1)
            found += consumer.consume(500, 0) if found else []
            now = time.monotonic()
            for message in found:
                self.outcomes.append(json.loads(message.value() or b""))
                source = self.outcomes[-1]["source"]
                self._arrivals[source["partition"]].append((now, source["offset"]))
        consumer.close()
