from __future__ import annotations

import threading
import time

import pytest

from pipeline.runtime.gate import DeviceGate


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


def contend(gate: DeviceGate, costs: dict[str, float], seconds: float) -> dict[str, float]:
    """Device time that each model got when all of them always had work."""
    used = dict.fromkeys(costs, 0.0)
    end = time.perf_counter() + seconds

    def run(name: str) -> None:
        while time.perf_counter() < end:
            with gate.turn(name):
                time.sleep(costs[name])
                used[name] += costs[name]

    threads = [threading.Thread(target=run, args=(name,)) for name in costs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return used


def test_short_steps_and_long_batches_get_equal_shares() -> None:
    used = contend(DeviceGate(), {"decode": 0.002, "images": 0.04}, seconds=1.0)
    assert 0.5 < used["decode"] / used["images"] < 2.0


def test_a_model_that_was_idle_does_not_take_the_device_for_itself_afterwards() -> None:
    gate = DeviceGate()
    for _ in range(10):
        with gate.turn("busy"):
            time.sleep(0.02)
    used = contend(gate, {"busy": 0.005, "late": 0.005}, seconds=0.4)
    assert used["busy"] > 0.25 * used["late"]


def test_an_error_inside_frees_the_device() -> None:
    gate = DeviceGate()
    with pytest.raises(ZeroDivisionError), gate.turn("a"):
        _ = 1 // 0
    with gate.turn("b"):
        pass
