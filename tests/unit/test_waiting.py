from __future__ import annotations

import pytest

from tests.waiting import until, wait_until


async def test_what_becomes_true_is_returned_and_looked_for_no_longer() -> None:
    looks = iter((0, 0, "first", 0, "second"))
    assert wait_until(lambda: next(looks), "one is true", poll_s=0) == "first"
    assert await until(lambda: next(looks), "another is true", poll_s=0) == "second"


async def test_what_does_not_happen_is_told_in_words() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.01 s: pigs fly"):
        wait_until(lambda: False, "pigs fly", timeout_s=0.01, poll_s=0)
    with pytest.raises(AssertionError, match=r"not within 0\.01 s: pigs fly"):
        await until(lambda: False, "pigs fly", timeout_s=0.01, poll_s=0)


def test_something_is_done_between_two_looks() -> None:
    done: list[int] = []
    wait_until(lambda: len(done) == 3, "three are done", poll_s=0, busy=lambda: done.append(1))
