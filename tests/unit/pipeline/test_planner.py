from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.planner import Candidate, Limits, Plan, plan_batch

NOW = 10_000.0
ROOMY = Limits(max_batch_size=100)


def candidate(ticket: int, **fields: Any) -> Candidate:
    return Candidate(**({"ticket": ticket, "weight": 1, "priority": 4, "arrived_ms": NOW} | fields))


def order(*candidates: Candidate, size: int = 1) -> list[int]:
    """The order in which batches of ``size`` take all candidates."""
    left, taken = list(candidates), list[int]()
    while left:
        run = plan_batch(left, NOW, Limits(max_batch_size=size)).run
        taken += run
        left = [item for item in left if item.ticket not in run]
    return taken


def test_nothing_waiting_plans_nothing() -> None:
    assert plan_batch([], NOW, ROOMY) == Plan(run=(), expired=())


def test_what_is_there_runs_at_once_however_little() -> None:
    assert plan_batch([candidate(1)], NOW, ROOMY).run == (1,)


def test_no_room_plans_nothing_but_still_finds_the_expired() -> None:
    plan = plan_batch([candidate(1), candidate(2, deadline_ms=NOW)], NOW, Limits(max_batch_size=0))
    assert plan == Plan(run=(), expired=(2,))


def test_a_batch_has_at_most_its_size() -> None:
    assert plan_batch([candidate(i) for i in range(5)], NOW, Limits(max_batch_size=3)).run == (0, 1, 2)


def test_higher_priority_runs_first() -> None:
    assert order(candidate(1, priority=1), candidate(2, priority=9), candidate(3, priority=5)) == [2, 3, 1]


def test_within_a_priority_the_earlier_deadline_runs_first() -> None:
    assert order(candidate(1), candidate(2, deadline_ms=NOW + 9), candidate(3, deadline_ms=NOW + 5)) == [3, 2, 1]


def test_waiting_raises_the_priority_so_that_none_starves() -> None:
    old = candidate(1, priority=0, arrived_ms=NOW - 9_500)
    assert order(old, candidate(2, priority=8)) == [1, 2]


def test_no_candidate_overtakes_an_earlier_one_of_its_key() -> None:
    assert order(candidate(1, key=b"k", priority=0), candidate(2, key=b"k", priority=9)) == [1, 2]


def test_an_urgent_candidate_lends_its_place_to_the_earlier_one_of_its_key() -> None:
    first, second = candidate(1, key=b"k", priority=0), candidate(3, key=b"k", priority=9)
    assert order(first, candidate(2, priority=5), second) == [1, 3, 2]


def test_padded_weight_bounds_the_batch() -> None:
    items = [candidate(1, weight=10), candidate(2, weight=40), candidate(3, weight=10)]
    assert plan_batch(items, NOW, Limits(max_batch_size=9, max_padded_weight=80)).run == (1, 2)


def test_one_candidate_always_fits_however_heavy() -> None:
    assert plan_batch([candidate(1, weight=999)], NOW, Limits(max_batch_size=9, max_padded_weight=80)).run == (1,)


candidates = st.lists(
    st.builds(
        candidate,
        st.integers(),
        weight=st.integers(0, 100),
        priority=st.integers(0, 9),
        arrived_ms=st.floats(0, NOW),
        deadline_ms=st.none() | st.floats(NOW - 100, NOW + 100),
        key=st.none() | st.sampled_from([b"a", b"b", b"c"]),
    ),
    unique_by=lambda item: item.ticket,
)


@given(candidates, st.integers(1, 8), st.none() | st.integers(0, 300))
def test_every_plan_keeps_its_promises(items: list[Candidate], size: int, weight: int | None) -> None:
    plan = plan_batch(items, NOW, Limits(max_batch_size=size, max_padded_weight=weight))
    late = {item.ticket for item in items if item.deadline_ms is not None and item.deadline_ms <= NOW}
    alive = [item for item in items if item.ticket not in late]
    run = [item for item in alive if item.ticket in plan.run]
    assert set(plan.expired) == late
    assert bool(plan.run) == bool(alive), "the device never idles while something can run"
    assert len(run) <= size
    assert weight is None or len(run) < 2 or max(item.weight for item in run) * len(run) <= weight
    for chosen in run:
        earlier = [item for item in alive if item.key == chosen.key is not None and item.ticket < chosen.ticket]
        assert {item.ticket for item in earlier} <= set(plan.run), "nothing overtakes its own key"
