from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

import pytest
from confluent_kafka import KafkaError, KafkaException

import agents.transactions
from agents.ledger import Partition
from agents.publisher import OutgoingRecord
from agents.transactions import AbortedError, Transactions
from pipeline.errors import TransportError

PARTITION = Partition("prompts", 0)
OFFSETS = {PARTITION: 7}
RECORDS = [OutgoingRecord("results", b"key", b"value", [])]


def failure(code: int, *, retriable: bool = False, fatal: bool = False, abortable: bool = False) -> KafkaException:
    return KafkaException(KafkaError(code, "", fatal, retriable, abortable))


TIMED_OUT = failure(KafkaError._TIMED_OUT, retriable=True)
FENCED = failure(KafkaError._FENCED, fatal=True)
BAD_GENERATION = failure(KafkaError.ILLEGAL_GENERATION, abortable=True)
OUT_OF_ORDER = failure(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, abortable=True)


class ScriptedProducer:
    """Fails calls as the script says, by the method's name; ``made`` counts the producers."""

    made = 0
    script: ClassVar[Mapping[str, deque[KafkaException]]] = {}
    calls: ClassVar[list[str]] = []

    def __init__(self, config: Any) -> None:
        type(self).made += 1

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> int:
            self.calls.append(name)
            if failures := self.script.get(name):
                raise failures.popleft()
            return 0

        return call


Script = Callable[..., None]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Says which calls of all producers to come fail, and how often."""
    monkeypatch.setattr(agents.transactions, "Producer", ScriptedProducer)
    monkeypatch.setattr(ScriptedProducer, "made", 0)
    monkeypatch.setattr(ScriptedProducer, "calls", [])

    def write(**failures: list[KafkaException]) -> None:
        script = {name: deque(errors) for name, errors in failures.items()}
        monkeypatch.setattr(ScriptedProducer, "script", script)

    write()
    return write


NOTHING: Mapping[Partition, int] = {}


def transactions(committed: Mapping[Partition, int] | KafkaException = NOTHING, patience_s: float = 5) -> Transactions:
    def ask(partitions: Collection[Partition], timeout_s: float) -> Mapping[Partition, int]:
        if isinstance(committed, KafkaException):
            raise committed
        return committed

    return Transactions({"bootstrap.servers": "kafka:9092"}, ask, timeout_s=0, patience_s=patience_s)


def test_a_transaction_begins_sends_its_offsets_produces_and_commits_in_this_order(script: Script) -> None:
    transactions().run(RECORDS, OFFSETS, None)
    assert ScriptedProducer.calls == [
        "begin_transaction", "send_offsets_to_transaction", "produce", "commit_transaction",
    ]  # fmt: skip


def test_a_transaction_that_the_group_refuses_is_aborted_and_may_be_tried_again(script: Script) -> None:
    script(send_offsets_to_transaction=[BAD_GENERATION])
    fresh = transactions()
    with pytest.raises(AbortedError):
        fresh.run(RECORDS, OFFSETS, None)
    fresh.run(RECORDS, OFFSETS, None)
    assert ScriptedProducer.made == 1


@pytest.mark.parametrize(
    "failures",
    [
        {"send_offsets_to_transaction": [TIMED_OUT], "abort_transaction": [TIMED_OUT]},
        {"commit_transaction": [OUT_OF_ORDER], "abort_transaction": [TIMED_OUT]},
        {"begin_transaction": [FENCED]},
        {"produce": [FENCED]},
    ],
)
def test_a_producer_that_cannot_abort_is_made_anew_and_goes_on(
    script: Script, failures: dict[str, list[KafkaException]]
) -> None:
    script(**failures)
    fresh = transactions()
    with pytest.raises(AbortedError):
        fresh.run(RECORDS, OFFSETS, None)
    assert ScriptedProducer.made == 2
    assert ScriptedProducer.calls[-1] == "init_transactions"
    fresh.run(RECORDS, OFFSETS, None)


@pytest.mark.parametrize("answer", [TIMED_OUT, FENCED])
def test_a_commit_without_an_answer_counts_when_the_group_has_its_offsets(
    script: Script, answer: KafkaException
) -> None:
    script(commit_transaction=[answer])
    transactions(committed={PARTITION: 7}).run(RECORDS, OFFSETS, None)
    assert "abort_transaction" not in ScriptedProducer.calls


@pytest.mark.parametrize("committed", [{}, {PARTITION: 6}])
def test_a_commit_without_an_answer_is_made_again_when_the_group_lacks_its_offsets(
    script: Script, committed: dict[Partition, int]
) -> None:
    script(commit_transaction=[TIMED_OUT])
    with pytest.raises(AbortedError):
        transactions(committed).run(RECORDS, OFFSETS, None)


def test_a_commit_that_times_out_is_asked_again_before_anything_else(script: Script) -> None:
    script(commit_transaction=[TIMED_OUT, TIMED_OUT])
    patient = Transactions({}, lambda *_: {}, timeout_s=60, patience_s=60)
    patient.run(RECORDS, OFFSETS, None)
    assert ScriptedProducer.calls.count("commit_transaction") == 3
    assert ScriptedProducer.made == 1


def test_the_worker_ends_when_nobody_can_tell_whether_a_commit_happened(script: Script) -> None:
    script(commit_transaction=[TIMED_OUT])
    with pytest.raises(TransportError, match="does not tell whether it happened"):
        transactions(committed=TIMED_OUT).run(RECORDS, OFFSETS, None)


def test_the_worker_ends_when_kafka_registers_no_producer_for_too_long(script: Script) -> None:
    script(begin_transaction=[FENCED], init_transactions=[TIMED_OUT] * 9)
    with pytest.raises(TransportError, match="kafka:9092 has taken no transaction for 0"):
        transactions(patience_s=0).run(RECORDS, OFFSETS, None)


def test_the_worker_ends_when_every_transaction_is_aborted_for_too_long(script: Script) -> None:
    script(send_offsets_to_transaction=[BAD_GENERATION] * 9)
    impatient = transactions(patience_s=0)
    with pytest.raises(AbortedError):
        impatient.run(RECORDS, OFFSETS, None)
    with pytest.raises(TransportError, match="has taken no transaction for 0"):
        impatient.run(RECORDS, OFFSETS, None)


def test_a_record_that_its_topic_does_not_take_ends_the_worker_with_what_to_do(script: Script) -> None:
    script(commit_transaction=[failure(KafkaError.MSG_SIZE_TOO_LARGE, abortable=True)])
    with pytest.raises(TransportError, match=r"Raise max\.message\.bytes"):
        transactions().run(RECORDS, OFFSETS, None)


def test_a_fenced_producer_can_be_closed(script: Script) -> None:
    script(flush=[FENCED])
    transactions().close()
    assert ScriptedProducer.calls == ["purge", "flush"]
