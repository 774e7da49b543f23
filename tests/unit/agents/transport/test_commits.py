"""Commits against a consumer that answers as the test says."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from agents.ledger import Partition
from agents.transport.commits import CommitRefusedError, Commits, commit_now
from pipeline.errors import TransportError

FIRST, SECOND = Partition("prompts", 0), Partition("prompts", 1)


class FakeConsumer:
    """Answers each synchronous commit with the next of ``answers``: a whole one's error, or one by partition."""

    def __init__(self, *answers: int | Mapping[Partition, int]) -> None:
        self.answers = list(answers)
        self.asked: list[dict[Partition, int]] = []

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition] | None:
        self.asked.append({Partition(tp.topic, tp.partition): tp.offset for tp in offsets})
        if asynchronous:
            return None
        answer = self.answers.pop(0) if self.answers else {}
        if isinstance(answer, int):
            raise KafkaException(KafkaError(answer))
        return [Answered(tp, answer) for tp in offsets]  # type: ignore[misc]


class Answered:
    """A TopicPartition with an error, which only librdkafka can set."""

    def __init__(self, tp: TopicPartition, errors: Mapping[Partition, int]) -> None:
        self.topic, self.partition, self.offset = tp.topic, tp.partition, tp.offset
        code = errors.get(Partition(tp.topic, tp.partition))
        self.error = None if code is None else KafkaError(code)


@pytest.fixture
def commits() -> Commits:
    return Commits()


def begun(commits: Commits, offsets: Mapping[Partition, int]) -> Future[Mapping[Partition, int]]:
    done: Future[Mapping[Partition, int]] = Future()
    consumer: Any = FakeConsumer()
    commits.begin(consumer, offsets, done)
    return done


def positions(offsets: Mapping[Partition, int]) -> list[TopicPartition]:
    return [TopicPartition(*partition, offset) for partition, offset in offsets.items()]


def test_a_commit_waits_for_nothing_and_its_answer_comes_later(commits: Commits) -> None:
    first, second = begun(commits, {FIRST: 5}), begun(commits, {SECOND: 7})
    assert not first.done()
    commits.on_answer(None, positions({FIRST: 5}))
    assert first.result(0) == {FIRST: 5}
    assert not second.done()
    commits.on_answer(None, positions({SECOND: 7}))
    assert second.result(0) == {SECOND: 7}


def test_a_commit_of_nothing_is_answered_at_once(commits: Commits) -> None:
    assert begun(commits, {}).result(0) == {}


@pytest.mark.parametrize("code", [KafkaError.ILLEGAL_GENERATION, KafkaError.STALE_MEMBER_EPOCH])
def test_what_a_rebalance_refuses_is_no_failure_for_it_comes_again(commits: Commits, code: int) -> None:
    done = begun(commits, {FIRST: 5})
    commits.on_answer(KafkaError(code), [Answered(TopicPartition(*FIRST, 5), {FIRST: code})])  # type: ignore[list-item]
    assert done.result(0) == {}


@pytest.mark.parametrize(
    ("code", "kind"),
    [(KafkaError.GROUP_AUTHORIZATION_FAILED, CommitRefusedError), (KafkaError._TIMED_OUT, TransportError)],
)
def test_a_failure_says_whether_it_will_pass(commits: Commits, code: int, kind: type[Exception]) -> None:
    done = begun(commits, {FIRST: 5})
    commits.on_answer(KafkaError(code), [])
    assert type(done.exception(0)) is kind


def test_a_commit_that_is_under_way_when_the_consumer_ends_fails(commits: Commits) -> None:
    done = begun(commits, {FIRST: 5})
    commits.end()
    assert isinstance(done.exception(0), TransportError)


def test_the_last_commit_asks_again_when_the_membership_changed_under_it() -> None:
    consumer: Any = FakeConsumer(KafkaError.STALE_MEMBER_EPOCH, {SECOND: KafkaError.STALE_MEMBER_EPOCH}, {})
    commit_now(consumer, {FIRST: 5, SECOND: 7})
    assert consumer.asked == [{FIRST: 5, SECOND: 7}, {FIRST: 5, SECOND: 7}, {SECOND: 7}]


@pytest.mark.parametrize("code", [KafkaError.ILLEGAL_GENERATION, KafkaError._TIMED_OUT])
def test_the_last_commit_says_when_it_was_not_made(code: int) -> None:
    consumer: Any = FakeConsumer(code, code, code)
    with pytest.raises(TransportError, match="could not be committed"):
        commit_now(consumer, {FIRST: 5})


def test_the_last_commit_tells_why_it_was_refused() -> None:
    consumer: Any = FakeConsumer(KafkaError.GROUP_AUTHORIZATION_FAILED)
    with pytest.raises(CommitRefusedError):
        commit_now(consumer, {FIRST: 5})
