"""The control file of one chaos worker: the harness writes it, the worker obeys it within a few milliseconds."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from tests.chaos.records import POISON_PIXEL, POISON_TOKEN

__all__ = ["Control", "Obedience", "write_control"]

POLL_S = 0.02


class Control(Struct, frozen=True, kw_only=True):
    """What goes wrong in one worker.

    ``run_ms`` is how long each run of the fake model takes, ``failing`` makes all of them fail, ``fail_runs`` the next
    few (once for each new ``serial``); ``clock_offset_s`` is how wrong its time of day is.
    """

    run_ms: float = 0.0
    failing: bool = False
    fail_runs: int = 0
    serial: int = 0
    clock_offset_s: float = 0.0


def write_control(file: Path, control: Control) -> None:
    """Replace the file; a reader sees the old one or the new one."""
    partial = file.with_suffix(".partial")
    partial.write_bytes(msgspec.json.encode(control))
    partial.replace(file)


class Obedience:
    """The worker's side: reads the file again and again, is the fake model's fault and the wrong clock."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._control = Control()
        self._fail_runs = 0
        self._real_time, self._real_time_ns = time.time, time.time_ns

    def begin(self) -> None:
        """Follow the file from now on, and make this process's time of day wrong by what it says."""
        self._read()
        threading.Thread(target=self._follow, name="chaos-control", daemon=True).start()
        time.time = lambda: self._real_time() + self._control.clock_offset_s
        time.time_ns = lambda: self._real_time_ns() + int(self._control.clock_offset_s * 1e9)

    def real_time(self) -> float:
        """The true time of day, for logs."""
        return self._real_time()

    def fault(self, array: npt.NDArray[Any]) -> bool:
        """Whether a run of the fake model fails; it takes its time first. Called on the device threads."""
        time.sleep(self._control.run_ms / 1_000)
        if self._fail_runs > 0:
            self._fail_runs -= 1
            return True
        return self._control.failing or _holds_poison(array)

    def _follow(self) -> None:
        while True:
            time.sleep(POLL_S)
            self._read()

    def _read(self) -> None:
        control = msgspec.json.decode(self._file.read_bytes(), type=Control)
        if control.serial != self._control.serial:
            self._fail_runs = control.fail_runs
        self._control = control


def _holds_poison(array: npt.NDArray[Any]) -> bool:
    """A chunk of a prompt (more than one token a row) is never poison: the fault shows in a batch of several."""
    if array.ndim == 2:
        return array.shape[1] == 1 and bool(np.any(array == POISON_TOKEN))
    return bool(np.any(array.reshape(len(array), -1)[:, 0] == POISON_PIXEL))
