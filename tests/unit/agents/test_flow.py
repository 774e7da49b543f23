from __future__ import annotations

from agents.transport.flow import LARGEST_FETCH, Flow


def test_a_topic_is_full_at_its_bound_of_records_and_resumes_at_half() -> None:
    flow = Flow(max_records=4, max_bytes=1_000)
    flow.take([1, 1, 1, 1])
    assert flow.full
    flow.give_back(1)
    assert flow.full
    flow.give_back(1)
    flow.give_back(1)
    assert not flow.full


def test_a_topic_is_full_at_its_bound_of_bytes() -> None:
    flow = Flow(max_records=100, max_bytes=1_000)
    flow.take([400])
    assert not flow.full
    flow.take([600])
    assert flow.full


def test_room_assumes_that_the_next_records_are_as_large_as_the_largest() -> None:
    flow = Flow(max_records=100, max_bytes=1_000)
    flow.take([100])
    assert flow.room == 9


def test_one_record_is_always_fetched_however_large_they_are() -> None:
    flow = Flow(max_records=100, max_bytes=1_000)
    flow.take([5_000])
    flow.give_back(5_000)
    assert flow.room == 1


def test_a_single_fetch_is_bounded() -> None:
    assert Flow(max_records=10**6, max_bytes=10**9).room == LARGEST_FETCH
