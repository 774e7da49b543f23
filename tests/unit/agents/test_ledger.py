from __future__ import annotations

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agents.ledger import Ledger, Partition, PartitionLedger

PROMPTS = Partition("inference.prompts", 0)
IMAGES = Partition("inference.images", 3)


def test_nothing_is_committable_before_the_first_record() -> None:
    assert PartitionLedger(1).committable is None


def test_an_open_record_holds_back_the_settled_ones_behind_it() -> None:
    ledger = PartitionLedger(1)
    ledger.open([10, 11, 12])
    ledger.settle(11)
    ledger.settle(12)
    assert ledger.committable == 10
    ledger.settle(10)
    assert ledger.committable == 13


def test_offsets_that_were_never_delivered_hold_nothing_back() -> None:
    ledger = PartitionLedger(1)
    ledger.open([5, 9, 40])
    ledger.settle(5)
    assert ledger.committable == 9
    ledger.settle(9)
    ledger.settle(40)
    assert ledger.committable == 41


def test_a_record_settled_twice_is_reported_as_a_bug() -> None:
    ledger = PartitionLedger(1)
    ledger.open([1, 2])
    ledger.settle(2)
    with pytest.raises(ValueError, match="offset 2 has no open entry"):
        ledger.settle(2)


def test_offsets_that_run_backwards_are_reported_as_a_bug() -> None:
    ledger = PartitionLedger(1)
    ledger.open([7])
    with pytest.raises(ValueError, match="offset 7 was fetched again or late"):
        ledger.open([7])


def test_settlements_from_before_a_partition_was_given_up_are_ignored() -> None:
    ledger = Ledger()
    ledger.assign([PROMPTS])
    old = ledger.open(PROMPTS, [0, 1])
    ledger.revoke([PROMPTS])
    assert not ledger.settle(PROMPTS, old, 0)
    ledger.assign([PROMPTS])
    ledger.open(PROMPTS, [0, 1])
    assert not ledger.settle(PROMPTS, old, 0)
    assert ledger.unsettled() == 2


def test_there_is_nothing_to_commit_before_a_record_is_settled() -> None:
    ledger = Ledger()
    ledger.assign([PROMPTS])
    ledger.open(PROMPTS, [3, 4])
    assert ledger.commits() == {}


def test_an_offset_is_committed_once() -> None:
    ledger = Ledger()
    ledger.assign([PROMPTS, IMAGES])
    epoch = ledger.open(PROMPTS, [3])
    ledger.settle(PROMPTS, epoch, 3)
    assert ledger.commits() == {PROMPTS: 4}
    ledger.committed({PROMPTS: 4})
    assert ledger.commits() == {}


@given(st.sets(st.integers(0, 200), min_size=1), st.randoms())
def test_records_settled_in_any_order_end_at_the_offset_after_the_last(offsets: set[int], random: object) -> None:
    ledger = PartitionLedger(1)
    ledger.open(sorted(offsets))
    order = list(offsets)
    random.shuffle(order)  # type: ignore[attr-defined]
    for offset in order:
        ledger.settle(offset)
    assert ledger.committable == max(offsets) + 1
    assert ledger.unsettled == 0


class OneLedgerAgainstASimpleModel(RuleBasedStateMachine):
    """The model: a list of [offset, settled] and the epoch, per partition, searched from the start each time."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.rows: dict[Partition, list[list[int]]] = {}
        self.stale: list[tuple[Partition, int, int]] = []
        self.next = 0

    @rule(partition=st.sampled_from([PROMPTS, IMAGES]))
    def assign(self, partition: Partition) -> None:
        self._forget(partition)
        self.ledger.assign([partition])
        self.rows[partition] = []

    @rule(partition=st.sampled_from([PROMPTS, IMAGES]))
    def revoke(self, partition: Partition) -> None:
        self._forget(partition)
        self.ledger.revoke([partition])

    def _forget(self, partition: Partition) -> None:
        epoch = self.ledger.epoch(partition)
        for offset, _ in self.rows.pop(partition, []):
            self.stale.append((partition, epoch or 0, offset))

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), gaps=st.lists(st.integers(1, 3), min_size=1, max_size=4))
    def fetch(self, data: st.DataObject, gaps: list[int]) -> None:
        partition = data.draw(st.sampled_from(sorted(self.rows)))
        offsets = []
        for gap in gaps:
            self.next += gap
            offsets.append(self.next)
        self.ledger.open(partition, offsets)
        self.rows[partition] += [[offset, 0] for offset in offsets]

    @precondition(lambda self: any(not done for rows in self.rows.values() for _, done in rows))
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        open_rows = [(p, row) for p, rows in self.rows.items() for row in rows if not row[1]]
        partition, row = data.draw(st.sampled_from(open_rows))
        assert self.ledger.settle(partition, self.ledger.epoch(partition) or 0, row[0])
        row[1] = 1

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def settle_what_was_given_up(self, data: st.DataObject) -> None:
        assert not self.ledger.settle(*data.draw(st.sampled_from(self.stale)))

    @rule()
    def commit(self) -> None:
        self.ledger.committed(self.ledger.commits())
        assert self.ledger.commits() == {}

    @invariant()
    def committable_is_the_first_record_without_an_outcome(self) -> None:
        expected = {}
        for partition, rows in self.rows.items():
            if rows:
                expected[partition] = next((offset for offset, done in rows if not done), rows[-1][0] + 1)
        assert self.ledger.committable() == expected

    @invariant()
    def unsettled_counts_what_has_no_outcome(self) -> None:
        assert self.ledger.unsettled() == sum(not done for rows in self.rows.values() for _, done in rows)


TestLedgerAgainstModel = OneLedgerAgainstASimpleModel.TestCase


@pytest.mark.thorough
@pytest.mark.timeout(3_600)
def test_ten_thousand_sequences_find_no_difference_from_the_model() -> None:
    run_state_machine_as_test(
        OneLedgerAgainstASimpleModel,
        settings=hypothesis.settings(max_examples=10_000, stateful_step_count=40, deadline=None, database=None),
    )
