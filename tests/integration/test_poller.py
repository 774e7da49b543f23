"""The poll thread against a real Kafka: what a partition remembers of an earlier assignment, and where it begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from agents.ledger import Partition
from agents.records import offset_of
from agents.topics import create_topics
from agents.transport.flow import Flow
from agents.transport.poller import Poller
from agents.worker_config import consumer_config
from pipeline.errors import TransportError
from pipeline.settings import KafkaSettings, Settings
from tests.records import produce
from tests.waiting import wait_until

pytestmark = pytest.mark.integration


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.offsets: dict[Partition, list[int]] = {}
        self.failure: TransportError | None = None

    def on_assigned(self, partitions: list[Partition]) -> None:
        pass

    def on_revoked(self, partitions: list[Partition], metadata: Any) -> Mapping[Partition, int]:
        return {partition: self.offsets[partition][-1] + 1 for partition in partitions if partition in self.offsets}

    def on_lost(self, partitions: list[Partition]) -> None:
        pass

    def on_messages(self, partition: Partition, messages: tuple[Any, ...]) -> None:
        self.offsets.setdefault(partition, []).extend(offset_of(message) for message in messages)

    def on_position(self, bounds: Mapping[Partition, tuple[int, int]], held: frozenset[Partition]) -> None:
        pass

    def on_failed(self, error: TransportError) -> None:
        self.failure = error


@pytest.fixture(params=["classic"])
def settings(request: pytest.FixtureRequest, kafka: str, topic_prefix: str) -> Settings:
    names = KafkaSettings(
        bootstrap_servers=kafka,
        topic_prefix=topic_prefix,
        group_id=topic_prefix,
        group_protocol=request.param,
        partitions=2,
        session_timeout_s=6,
    )
    made = Settings(kafka=names)
    create_topics(made)
    return made


@pytest.fixture
def another_member(settings: Settings) -> Iterator[Callable[[], Consumer]]:
    made: list[Consumer] = []

    def join() -> Consumer:
        consumer = Consumer(consumer_config(settings))
        made.append(consumer)
        consumer.subscribe([settings.kafka.prompts])
        return consumer

    yield join
    for consumer in made:
        consumer.close()


def wait_until_assigned(poller: Poller, count: int, busy: Callable[[], object] = lambda: None) -> None:
    wait_until(lambda: len(poller.assignment) == count, f"{count} partitions are assigned", busy=busy)


def test_a_partition_that_left_while_its_topic_was_paused_is_fetched_when_it_comes_back(
    settings: Settings, another_member: Callable[[], Consumer]
) -> None:
    topic = settings.kafka.prompts
    flow, heard = Flow(max_records=100, max_bytes=1_000_000), Heard()
    poller = Poller(consumer_config(settings), {topic: flow})
    poller.begin(heard)
    try:
        wait_until_assigned(poller, 2)
        produce(settings, topic, [(f"k{i}", b"fills the flow") for i in range(100)])
        wait_until(lambda: flow.share >= 1, "the flow is full")
        other = another_member()
        wait_until_assigned(poller, 1, busy=lambda: other.poll(0.02))
        give_all_back(flow)
        other.close()
        wait_until_assigned(poller, 2)
        # So few that the topic is not paused and resumed again, which would heal it.
        produce(settings, topic, [(f"k{i}", b"one") for i in range(20)])
        wait_until(lambda: sum(map(len, map(set, heard.offsets.values()))) == 120, "all 120 records are heard of")
    finally:
        poller.stop()
    assert heard.failure is None


@pytest.mark.parametrize("settings", ["classic", "consumer"], indirect=True)
def test_a_rebalance_while_a_transaction_holds_offsets_back_does_not_start_a_partition_at_its_beginning(
    settings: Settings, another_member: Callable[[], Consumer]
) -> None:
    topic = settings.kafka.prompts
    produce_to_each(settings, topic, 10)
    dead_worker = transactional_producer(settings)
    send_offsets(dead_worker, settings, topic, 5)
    dead_worker.commit_transaction(30)
    send_offsets(dead_worker, settings, topic, 8)
    heard = Heard()
    poller = Poller(consumer_config(settings), {topic: Flow(max_records=100, max_bytes=1_000_000)})
    poller.begin(heard)
    try:
        wait_until_assigned(poller, 2)
        other = another_member()
        wait_until_assigned(poller, 1, busy=lambda: other.poll(0.02))
        time.sleep(2)
        assert heard.offsets == {}
        dead_worker.abort_transaction(30)
        (kept,) = poller.assignment
        wait_until(lambda: len(heard.offsets.get(kept, ())) >= 5, "the partition is read to its end")
    finally:
        poller.stop()
    assert heard.offsets == {kept: [5, 6, 7, 8, 9]}
    assert heard.failure is None


def test_a_transaction_that_holds_one_partitions_offset_back_does_not_hold_up_others(settings: Settings) -> None:
    topic = settings.kafka.prompts
    produce_to_each(settings, topic, 10)
    dead_worker = transactional_producer(settings)
    send_offsets(dead_worker, settings, topic, 5)
    dead_worker.commit_transaction(30)
    send_offsets(dead_worker, settings, topic, 8, numbers=[0])
    heard, held, free = Heard(), Partition(topic, 0), Partition(topic, 1)
    poller = Poller(consumer_config(settings), {topic: Flow(max_records=100, max_bytes=1_000_000)})
    poller.begin(heard)
    try:
        wait_until(lambda: len(heard.offsets.get(free, ())) >= 5, "the free partition is read to its end")
        assert held not in heard.offsets
        dead_worker.abort_transaction(30)
        wait_until(lambda: len(heard.offsets.get(held, ())) >= 5, "the held partition is read to its end")
    finally:
        poller.stop()
    assert heard.offsets == {held: [5, 6, 7, 8, 9], free: [5, 6, 7, 8, 9]}


def transactional_producer(settings: Settings) -> Producer:
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "transactional.id": settings.kafka.group_id,
            "transaction.timeout.ms": 600_000,  # it ends when a test ends it
        }
    )
    producer.init_transactions(30)
    return producer


def send_offsets(
    producer: Producer, settings: Settings, topic: str, offset: int, numbers: Sequence[int] = (0, 1)
) -> None:
    """Begin a transaction that moves the partitions ``numbers`` of ``topic`` to ``offset``."""
    consumer = Consumer(consumer_config(settings))
    producer.begin_transaction()
    offsets = [TopicPartition(topic, number, offset) for number in numbers]
    producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), 30)
    consumer.close()


def produce_to_each(settings: Settings, topic: str, count: int) -> None:
    """Produce ``count`` records to each partition of ``topic``."""
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for number in range(settings.kafka.partitions):
        for _ in range(count):
            producer.produce(topic, b"one", partition=number)
    assert producer.flush(30) == 0


def give_all_back(flow: Flow) -> None:
    while flow.records > 0:
        flow.give_back(0)
