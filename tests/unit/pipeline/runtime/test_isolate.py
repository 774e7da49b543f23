from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runtime.isolate import run_isolated
from pipeline.runtime.session import SessionError


def test_a_good_batch_runs_once() -> None:
    runs: list[list[int]] = []

    def run(items: Sequence[int]) -> list[int]:
        runs.append(list(items))
        return [item * 2 for item in items]

    assert run_isolated(run, [1, 2, 3]) == [2, 4, 6]
    assert runs == [[1, 2, 3]]


def test_a_failure_that_passes_is_retried_and_nobody_notices() -> None:
    failures = [SessionError("hiccup")]

    def run(items: Sequence[int]) -> list[int]:
        if failures:
            raise failures.pop()
        return list(items)

    assert run_isolated(run, [1, 2, 3]) == [1, 2, 3]


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.booleans())
def test_exactly_the_culprits_fail(poisoned: list[bool], neighbours: bool) -> None:
    def run(items: Sequence[int]) -> list[int]:
        if neighbours:
            assert list(items) == list(range(items[0], items[0] + len(items)))
        if any(poisoned[item] for item in items):
            raise SessionError("poison")
        return list(items)

    results = run_isolated(run, range(len(poisoned)), neighbours=neighbours)
    assert [isinstance(result, SessionError) for result in results] == poisoned
    assert [result for result in results if isinstance(result, int)] == [i for i, bad in enumerate(poisoned) if not bad]


@pytest.mark.parametrize("culprit", range(64))
def test_one_culprit_among_64_costs_at_most_8_more_runs(culprit: int) -> None:
    runs = 0

    def run(items: Sequence[int]) -> list[int]:
        nonlocal runs
        runs += 1
        if culprit in items:
            raise SessionError("poison")
        return list(items)

    results = run_isolated(run, range(64))
    assert isinstance(results[culprit], SessionError)
    assert runs - 1 <= math.log2(64) + 2


def test_fewer_results_than_records_is_a_failure_not_a_shift() -> None:
    results = run_isolated(lambda items: list(items)[:-1] if len(items) == 4 else list(items), [1, 2, 3, 4])
    assert results == [1, 2, 3, 4]
    assert all(isinstance(result, SessionError) for result in run_isolated(lambda items: [], [1, 2]))
