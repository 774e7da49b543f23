from __future__ import annotations

from agents.transport.flow import LARGEST_FETCH, PATIENCE_S, Flow, State, Valve


def test_the_share_is_that_of_the_tighter_bound() -> None:
    flow = Flow(max_records=4, max_bytes=1_000)
    flow.take([100])
    assert flow.share == 0.25
    flow.take([500])
    assert flow.share == 0.6
    flow.give_back(500)
    assert flow.share == 0.25


def test_a_topic_that_is_full_waits_and_goes_on_when_a_tenth_is_free() -> None:
    valve = Valve()
    assert valve.turn(0.99, 0.0) is State.OPEN
    assert valve.turn(1.0, 0.0) is State.WAITING
    assert valve.turn(0.95, 0.1) is State.WAITING
    assert valve.turn(0.89, 0.1) is State.OPEN
    assert valve.turn(0.95, 0.1) is State.OPEN


def test_a_topic_that_stays_full_is_paused_until_half_is_free() -> None:
    valve = Valve()
    assert valve.turn(1.0, 0.0) is State.WAITING
    assert valve.turn(1.0, PATIENCE_S) is State.PAUSED
    assert valve.turn(0.5, PATIENCE_S) is State.PAUSED
    assert valve.turn(0.49, PATIENCE_S) is State.OPEN


def test_a_topic_that_fills_again_waits_again_before_it_is_paused() -> None:
    valve = Valve()
    valve.turn(1.0, 0.0)
    valve.turn(0.5, 0.1)
    assert valve.turn(1.0, 1.0) is State.WAITING
    assert valve.turn(1.0, 1.0 + 2 * PATIENCE_S) is State.PAUSED


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
