"""What runs in a process of its own: its answer, its errors, and what becomes of one that does not answer."""

from __future__ import annotations

import multiprocessing
import operator
import os
import signal
import subprocess
import sys
import time
from multiprocessing.context import SpawnProcess

import pytest

from pipeline.errors import ModelError
from pipeline.factory.child import answer


def nap() -> None:
    os.write(1, b"napping\n")
    time.sleep(600)


def test_what_a_function_returns_or_raises_there_comes_back() -> None:
    assert answer("a sum", operator.add, 2, 3) == 5
    with pytest.raises(ZeroDivisionError):
        answer("a share", operator.truediv, 1, 0)


def test_one_that_does_not_answer_in_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.factory.child.LIMIT_S", 0.5)
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"a nap did not answer within 0\.5 s"):
        answer("a nap", time.sleep, 600)
    assert time.monotonic() - start < 30
    assert not multiprocessing.active_children()


def test_one_that_dies_is_told_apart() -> None:
    with pytest.raises(ModelError, match=r"a crash ended the process that it ran in \(exit status 3\)"):
        answer("a crash", os._exit, 3)
    with pytest.raises(ModelError, match=r"an abort ended the process that it ran in \(signal 6\)"):
        answer("an abort", os.abort)


def test_ctrl_c_while_it_starts_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    start = SpawnProcess.start

    def interrupted(process: SpawnProcess) -> None:
        start(process)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(SpawnProcess, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        answer("a nap", time.sleep, 600)
    assert not multiprocessing.active_children()


def test_a_kill_of_the_process_that_waits_leaves_none_behind() -> None:
    code = f"from {answer.__module__} import answer; from {__name__} import nap; answer('a nap', nap)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "napping\n"
        waiting.kill()
        assert waiting.communicate(timeout=60)[0] == ""  # nobody has its standard output any more
