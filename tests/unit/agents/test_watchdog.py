from __future__ import annotations

from agents.ledger import Partition
from agents.watchdog import Progress, Watchdog

P0 = Partition("inference.prompts", 0)
P1 = Partition("inference.prompts", 1)


def test_a_partition_that_stands_still_while_its_log_grows_is_reported() -> None:
    watchdog = Watchdog(timeout_s=10)
    assert watchdog.observe(0, {P0: Progress(1, 5, 0, 100)}) == []
    assert watchdog.observe(9.9, {P0: Progress(1, 5, 0, 200)}) == []
    assert watchdog.observe(10, {P0: Progress(1, 5, 0, 200)}) == [P0]


def test_a_partition_whose_log_does_not_grow_may_take_its_time() -> None:
    watchdog = Watchdog(timeout_s=10)
    watchdog.observe(0, {P0: Progress(1, 5, 0, 100)})
    assert watchdog.observe(1_000, {P0: Progress(1, 5, 0, 100)}) == []


def test_one_settled_record_starts_the_time_again() -> None:
    watchdog = Watchdog(timeout_s=10)
    watchdog.observe(0, {P0: Progress(1, 5, 0, 100)})
    assert watchdog.observe(11, {P0: Progress(1, 6, 0, 200)}) == []
    assert watchdog.observe(20, {P0: Progress(1, 6, 0, 300)}) == []
    assert watchdog.observe(21, {P0: Progress(1, 6, 0, 300)}) == [P0]


def test_a_new_assignment_starts_the_time_again() -> None:
    watchdog = Watchdog(timeout_s=10)
    watchdog.observe(0, {P0: Progress(1, 5, 0, 100)})
    assert watchdog.observe(11, {P0: Progress(2, 5, 0, 200)}) == []


def test_a_partition_that_had_nothing_to_do_is_forgotten() -> None:
    watchdog = Watchdog(timeout_s=10)
    watchdog.observe(0, {P0: Progress(1, 5, 0, 100)})
    watchdog.observe(5, {})
    assert watchdog.observe(11, {P0: Progress(1, 5, 0, 200)}) == []


def test_partitions_that_move_do_not_hide_one_that_does_not() -> None:
    watchdog = Watchdog(timeout_s=10)
    watchdog.observe(0, {P0: Progress(1, 5, 0, 100), P1: Progress(2, 5, 0, 100)})
    assert watchdog.observe(10, {P0: Progress(1, 5, 0, 200), P1: Progress(2, 50, 0, 200)}) == [P0]


def test_a_long_answer_that_is_being_written_is_progress() -> None:
    watchdog = Watchdog(timeout_s=10)
    watchdog.observe(0, {P0: Progress(1, 5, 100, 100)})
    assert watchdog.observe(11, {P0: Progress(1, 5, 180, 200)}) == []
