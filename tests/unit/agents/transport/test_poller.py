"""The poll thread without Kafka: where partitions begin, whether it is a member, its end."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

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


class GroupConsumer:
    """A consumer whose group has committed ``offsets``; of others it cannot tell, as while a transaction holds them."""

    def __init__(self, offsets: dict[int, int]) -> None:
        self.offsets = offsets
        self.member = "member-1"
        self.fetched: dict[int, int] = {}

    def committed(self, partitions: list[TopicPartition], timeout_s: float) -> list[TopicPartition]:
        if not all(tp.partition in self.offsets for tp in partitions):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return [TopicPartition(tp.topic, tp.partition, self.offsets[tp.partition]) for tp in partitions]

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        self.fetched |= {tp.partition: tp.offset for tp in partitions}

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        for tp in partitions:
            del self.fetched[tp.partition]

    def pause(self, partitions: list[TopicPartition]) -> None:
        pass

    resume = pause

    def consumer_group_metadata(self) -> str:
        return f"membership of {self.member!r}"

    def memberid(self) -> str:
        return self.member

    def get_watermark_offsets(self, partition: TopicPartition, cached: bool) -> tuple[int, int]:
        return 0, 100

    def offsets_for_times(self, partitions: list[TopicPartition], timeout_s: float) -> list[TopicPartition]:
        return []


class Partings:
    """A listener that commits nothing, and keeps how partitions went."""

    def __init__(self) -> None:
        self.revoked: list[Any] = []
        self.lost: list[Partition] = []
        self.held: list[set[Partition]] = []

    def on_assigned(self, partitions: list[Partition]) -> None:
        pass

    def on_revoked(self, partitions: list[Partition], metadata: Any) -> dict[Partition, int]:
        self.revoked.append(metadata)
        return {}

    def on_lost(self, partitions: list[Partition]) -> None:
        self.lost += partitions

    def on_position(self, bounds: Any, held: frozenset[Partition]) -> None:
        self.held.append(set(held))


def member(monkeypatch: pytest.MonkeyPatch, offsets: dict[int, int]) -> tuple[Poller, GroupConsumer, Any]:
    consumer, listener = GroupConsumer(offsets), Partings()
    monkeypatch.setattr(agents.transport.poller, "Consumer", lambda config: consumer)
    poller: Any = Poller({}, {PARTITION.topic: Flow(max_records=1, max_bytes=1)})
    poller._listener = listener
    return poller, consumer, listener


def partitions(*numbers: int) -> list[TopicPartition]:
    return [TopicPartition(PARTITION.topic, number) for number in numbers]


def test_a_partition_begins_at_the_committed_offset_and_a_new_one_at_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    poller, consumer, _ = member(monkeypatch, {0: 24, 1: -1001})
    poller._on_assign(consumer, partitions(0, 1))  # type: ignore[arg-type]
    assert consumer.fetched == {0: 24, 1: OFFSET_BEGINNING}


def test_a_partition_whose_beginning_cannot_be_told_is_held_and_fetched_later(monkeypatch: pytest.MonkeyPatch) -> None:
    poller, consumer, _ = member(monkeypatch, {})
    poller._on_assign(consumer, partitions(0))  # type: ignore[arg-type]
    assert poller.assignment == {PARTITION}
    assert consumer.fetched == {}
    consumer.offsets[0] = 24
    poller._place_at = 0
    poller._place_late()
    assert consumer.fetched == {0: 24}


def test_a_partition_whose_beginning_cannot_be_told_does_not_hold_up_others(monkeypatch: pytest.MonkeyPatch) -> None:
    poller, consumer, _ = member(monkeypatch, {1: 7, 2: 8})
    poller._on_assign(consumer, partitions(0, 1, 2, 3))  # type: ignore[arg-type]
    for _ in range(4):
        poller._place_at = 0
        poller._place_late()
    assert consumer.fetched == {1: 7, 2: 8}


def test_a_partition_whose_beginning_cannot_be_told_is_reported_until_it_is_fetched_or_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def report() -> set[Partition]:
        poller._positions._due_at = 0
        poller._report_position()
        return listener.held[-1]  # type: ignore[no-any-return]

    poller, consumer, listener = member(monkeypatch, {1: 7})
    poller._on_assign(consumer, partitions(0, 1, 2))  # type: ignore[arg-type]
    first, third = PARTITION, Partition(PARTITION.topic, 2)
    assert report() == {first, Partition(PARTITION.topic, 1), third}  # asked for together, none could be told
    for _ in range(3):
        poller._place_at = 0
        poller._place_late()
    assert report() == {first, third}
    poller._on_revoke(consumer, partitions(2))  # type: ignore[arg-type]
    assert report() == {first}
    consumer.offsets[0] = 24
    poller._place_at = 0
    poller._place_late()
    assert report() == set()


def test_a_partition_may_go_before_its_beginning_could_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    poller, consumer, _ = member(monkeypatch, {})
    poller._on_assign(consumer, partitions(0))  # type: ignore[arg-type]
    poller._on_revoke(consumer, partitions(0))  # type: ignore[arg-type]
    assert poller.assignment == frozenset()
    consumer.offsets[0] = 24
    poller._place_at = 0
    poller._place_late()
    assert consumer.fetched == {}


def test_a_group_whose_offsets_may_not_be_read_is_no_group_to_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))

    poller, consumer, _ = member(monkeypatch, {})
    monkeypatch.setattr(consumer, "committed", refuse)
    with pytest.raises(TransportError, match="offsets could not be read"):
        poller._on_assign(consumer, partitions(0))  # type: ignore[arg-type]


def test_who_is_no_member_gets_no_membership_for_a_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    poller, consumer, _ = member(monkeypatch, {0: 24})
    answer = poller.group_metadata()
    poller._work_off_commands()
    assert answer.result(0) == "membership of 'member-1'"
    consumer.member = ""
    answer = poller.group_metadata()
    poller._work_off_commands()
    assert isinstance(answer.exception(0), TransportError)


def test_who_is_no_member_any_more_has_lost_what_is_revoked(monkeypatch: pytest.MonkeyPatch) -> None:
    poller, consumer, listener = member(monkeypatch, {0: 24})
    poller._on_assign(consumer, partitions(0))  # type: ignore[arg-type]
    consumer.member = ""
    poller._on_revoke(consumer, partitions(0))  # type: ignore[arg-type]
    assert (listener.lost, listener.revoked) == ([PARTITION], [])
    assert consumer.fetched == {}
