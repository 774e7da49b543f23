from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runtime.isolate import run_batch
from pipeline.runtime.session import SessionError

Fault = Callable[[Sequence[int]], bool]


class SessionGoneError(Exception):
    """What a probe raises."""


class Device:
    """Answers each item with its double, and keeps what it ran.

    Args:
        fault: given a run's items, whether it fails; a probe is a run without items.
    """

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self.runs: list[tuple[tuple[int, ...], bool]] = []
        self.observed: list[str] = []

    def isolate(self, count: int) -> list[int | SessionError]:
        return run_batch(self._run, range(count), isolate=True, probe=self._probe, observe=self._observe)

    def _run(self, items: Sequence[int]) -> list[int]:
        if self._failed(items):
            raise SessionError("told to fail")
        return [2 * item for item in items]

    def _probe(self) -> None:
        if self._failed(()):
            raise SessionGoneError

    def _observe(self, kind: str, count: int) -> None:
        assert count == 1
        self.observed.append(kind)

    def _failed(self, items: Sequence[int]) -> bool:
        assert list(items) == sorted(set(items))
        self.runs.append((tuple(items), self._fault(items)))
        return self.runs[-1][1]


def poison(*places: int) -> Fault:
    return lambda items: not set(places).isdisjoint(items)


def outage(runs: int) -> Fault:
    left = iter([True] * runs)
    return lambda _: next(left, False)


def blamed(results: Sequence[int | SessionError]) -> list[int]:
    assert all(isinstance(result, SessionError) or result == 2 * place for place, result in enumerate(results))
    return [place for place, result in enumerate(results) if isinstance(result, SessionError)]


def test_a_good_batch_runs_once() -> None:
    device = Device(poison())
    assert device.isolate(3) == [0, 2, 4]
    assert device.runs == [((0, 1, 2), False)]
    assert not device.observed


def test_a_failed_batch_that_is_not_to_be_divided_raises_what_it_raised() -> None:
    error = SessionError("busy")
    observed: list[str] = []

    def run(items: Sequence[int]) -> list[int]:
        raise error

    with pytest.raises(SessionError) as caught:
        run_batch(run, [1, 2], isolate=False, probe=lambda: None, observe=lambda kind, _: observed.append(kind))
    assert caught.value is error
    assert observed == ["failure"]


@pytest.mark.parametrize("count", range(1, 65))
def test_one_culprit_among_n_costs_with_its_retry_and_any_probe_at_most_log2_n_plus_2_runs(count: int) -> None:
    for culprit in range(count):
        device = Device(poison(culprit))  # The first of its runs is the retry of the failed batch.
        assert blamed(device.isolate(count)) == [culprit]
        assert len(device.runs) <= math.ceil(math.log2(count)) + 2
        assert device.observed.count("bisection") == (count > 1)
        assert device.observed.count("failure") == sum(failed for items, failed in device.runs if items)


@given(st.lists(st.booleans(), min_size=1, max_size=80))
def test_exactly_the_culprits_fail_and_each_costs_a_few_runs(poisoned: list[bool]) -> None:
    culprits = [place for place, bad in enumerate(poisoned) if bad]
    device = Device(poison(*culprits))
    assert blamed(device.isolate(len(poisoned))) == culprits
    depth, most = math.ceil(math.log2(len(poisoned))), max(len(items) for items, _ in device.runs)
    assert len(device.runs) <= depth + 2 + len(culprits) * (2 * depth + 2)
    assert most == len(poisoned)


@given(st.integers(1, 40), st.sets(st.integers(0, 39)), st.lists(st.booleans(), max_size=80))
def test_whatever_fails_in_passing_nobody_is_blamed_without_evidence(
    count: int, culprits: set[int], passing: list[bool]
) -> None:
    failures = iter(passing)
    device = Device(lambda items: next(failures, False) or not culprits.isdisjoint(items))
    try:
        found = blamed(device.isolate(count))
    except SessionGoneError:
        assert device.runs[-1] == ((), True)
        return
    assert culprits & set(range(count)) <= set(found)
    for place in found:
        assert failed_alone(device, place) or failed_by_elimination(device, place)


def failed_alone(device: Device, place: int) -> bool:
    """Whether it failed alone, with a success without it right before or after."""
    around = [((), True), *device.runs, ((), True)]
    return any(
        here == ((place,), True) and not (before[1] and after[1])
        for before, here, after in zip(around, around[1:], around[2:], strict=False)
    )


def failed_by_elimination(device: Device, place: int) -> bool:
    """Whether it was in all failed runs, the last two among them, and their other items then succeeded together."""
    *_, (second, failed), (first, again), (rest, rest_failed) = [((), False), *device.runs]
    mates = {*first, *second} - {place}
    everyone_with_it = all(place in items for items, bad in device.runs if bad)
    return everyone_with_it and failed and again and not rest_failed and mates <= set(rest)


@pytest.mark.parametrize("count", [2, 3, 16, 33, 64])
def test_an_outage_that_passes_before_every_halving_has_failed_blames_nobody(count: int) -> None:
    for failures in range(math.ceil(math.log2(count)) + 1):
        assert blamed(Device(outage(failures)).isolate(count)) == []


@pytest.mark.parametrize("fitting", [1, 3, 16, 31, 32, 63])
def test_a_batch_too_large_for_the_memory_is_served_in_parts_and_nobody_is_blamed(fitting: int) -> None:
    device = Device(lambda items: len(items) > fitting)
    assert blamed(device.isolate(64)) == []
    assert len(device.runs) <= 4 * 64 // (fitting + 1) + 9


def test_a_lost_session_is_found_out_before_every_record_has_run_alone() -> None:
    device = Device(lambda _: True)
    with pytest.raises(SessionGoneError):
        device.isolate(64)
    assert len(device.runs) <= 9


@pytest.mark.parametrize("served", range(1, 8))
def test_a_session_lost_while_a_culprit_is_looked_for_is_not_blamed_on_records(served: int) -> None:
    """The batch fails, ``served`` halves succeed, and then everything fails."""
    device = Device(lambda items: len(device.runs) == 0 or len(device.runs) > served)
    try:
        found = blamed(device.isolate(64))
    except SessionGoneError:
        return
    assert found == ([63] if served == 6 else [])


def test_fewer_results_than_records_is_a_failure_not_a_shift() -> None:
    results = run_batch(
        lambda items: list(items)[: 3 if len(items) == 4 else None],
        [1, 2, 3, 4],
        isolate=True,
        probe=lambda: None,
        observe=lambda _kind, _count: None,
    )
    assert results == [1, 2, 3, 4]
    with pytest.raises(SessionError, match="2 records gave 0 results"):
        run_batch(lambda items: [], [1, 2], isolate=False, probe=lambda: None, observe=lambda _kind, _count: None)
