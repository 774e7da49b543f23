from __future__ import annotations

import random
from itertools import islice

import pytest

from tests.chaos.faults import FAULTS, LANES, Lane
from tests.chaos.lanes import deal


def kinds(lane: Lane, seed: str, count: int) -> list[str]:
    return [fault.kind for _, fault, _ in islice(deal(lane, list(FAULTS), random.Random(seed)), count)]


@pytest.mark.parametrize("lane", LANES)
def test_equal_seeds_deal_equal_faults(lane: Lane) -> None:
    first, second = (list(islice(deal(lane, list(FAULTS), random.Random("1")), 50)) for _ in range(2))
    assert first == second
    assert kinds(lane, "1", 50) != kinds(lane, "2", 50)


@pytest.mark.parametrize("lane", LANES)
def test_every_kind_comes_once_before_any_comes_again(lane: Lane) -> None:
    there = {kind for kind, fault in FAULTS.items() if fault.lane == lane}
    dealt = kinds(lane, "3", 3 * len(there))
    assert all(set(dealt[at : at + len(there)]) == there for at in range(0, len(dealt), len(there)))


def test_only_the_kinds_asked_for_are_dealt() -> None:
    assert list(deal("brokers", ["worker_kill"], random.Random("1"))) == []
    assert {fault.kind for _, fault, _ in islice(deal("workers", ["zombie"], random.Random("1")), 5)} == {"zombie"}
