from __future__ import annotations

import threading
import time

import pytest

from pipeline.runtime.gate import DeviceGate
from tests.waiting import wait_until


def test_one_run_at_a_time() -> None:
    gate, inside, most = DeviceGate(), 0, 0
    lock = threading.Lock()

    def run(name: str) -> None:
        nonlocal inside, most
        for _ in range(50):
            with gate.turn(name):
                with lock:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0)
                with lock:
                    inside -= 1

    threads = [threading.Thread(target=run, args=(f"m{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


class Clock:
    """The time, which passes only while somebody has the device."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def contend(gate: DeviceGate, clock: Clock, costs: dict[str, float], seconds: float) -> dict[str, float]:
    """Device time that each model got when all of them always had work."""
    used, end = dict.fromkeys(costs, 0.0), clock.now + seconds

    def all_others_wait() -> bool:
        return len(gate._waiting) == len(costs) - 1 or clock.now >= end

    def run(name: str) -> None:
        while clock.now < end:
            with gate.turn(name):
                wait_until(all_others_wait, "the other models wait for the device", poll_s=0.0005)
                clock.now += costs[name]
                used[name] += costs[name]

    threads = [threading.Thread(target=run, args=(name,)) for name in costs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return used


def test_short_steps_and_long_batches_get_equal_shares() -> None:
    clock = Clock()
    used = contend(DeviceGate(clock), clock, {"decode": 0.002, "images": 0.04}, seconds=1.0)
    assert 0.9 < used["decode"] / used["images"] < 1.1


def test_a_model_that_was_idle_does_not_take_the_device_for_itself_afterwards() -> None:
    clock = Clock()
    gate = DeviceGate(clock)
    for _ in range(10):
        with gate.turn("busy"):
            clock.now += 0.02
    used = contend(gate, clock, {"busy": 0.005, "late": 0.005}, seconds=0.4)
    assert 0.75 < used["busy"] / used["late"] < 1.25


def test_an_error_inside_frees_the_device() -> None:
    gate = DeviceGate()
    with pytest.raises(ZeroDivisionError), gate.turn("a"):
        _ = 1 // 0
    with gate.turn("b"):
        pass
