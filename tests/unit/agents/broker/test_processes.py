from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agents.broker.guard import Guard
from agents.broker.processes import MAIN_CLASS, end_nodes, find_nodes, spawn
from tests.waiting import wait_until

GENTLE = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)
Start = Callable[..., int]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process whose command line looks like a node's."""
    pids = []

    def start_node(properties: Path, script: str = GENTLE) -> int:
        pid = spawn([sys.executable, "-c", script, MAIN_CLASS, str(properties)], os.environ, tmp_path / "output")
        pids.append(pid)
        wait_until(lambda: properties in find_nodes([properties]), "the node runs")
        return pid

    yield start_node
    for pid in pids:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_a_node_is_found_by_its_settings_file_and_no_other(start: Start, tmp_path: Path) -> None:
    mine, other = tmp_path / "with a space" / "server.properties", tmp_path / "with a space" / "server.properties2"
    pid = start(mine)
    assert find_nodes([mine, other]) == {mine: pid}


def test_a_process_with_a_dead_nodes_pid_is_not_taken_for_it(tmp_path: Path) -> None:
    assert os.getpid() not in find_nodes([tmp_path / "server.properties"]).values()


def test_a_dead_node_that_nobody_waited_for_is_not_found(start: Start, tmp_path: Path) -> None:
    properties = tmp_path / "server.properties"
    os.kill(start(properties), signal.SIGKILL)
    wait_until(lambda: not find_nodes([properties]), "the node is gone")


def test_a_node_that_heeds_sigterm_is_ended_at_once(start: Start, tmp_path: Path) -> None:
    properties = tmp_path / "server.properties"
    start(properties)
    began = time.monotonic()
    assert end_nodes([properties], grace_s=60) == []
    assert time.monotonic() - began < 60
    assert not find_nodes([properties])


def test_a_node_that_ignores_sigterm_is_killed_after_the_grace(start: Start, tmp_path: Path) -> None:
    properties = tmp_path / "server.properties"
    start(properties, STUBBORN)
    wait_until(lambda: "deaf" in (tmp_path / "output").read_text(), "the node ignores SIGTERM")
    began = time.monotonic()
    assert end_nodes([properties], grace_s=0.3) == []
    assert time.monotonic() - began >= 0.3
    assert not find_nodes([properties])


def test_an_ended_node_is_gone_with_its_last_thread(start: Start, tmp_path: Path) -> None:
    properties = tmp_path / "server.properties"
    threads = f"import threading\nfor _ in range(40): threading.Thread(target=lambda: exec({GENTLE!r})).start()"
    for _ in range(5):
        pid = start(properties, threads)
        assert end_nodes([properties], grace_s=0.0) == []
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_ending_what_does_not_run_is_nothing(tmp_path: Path) -> None:
    assert end_nodes([tmp_path / "server.properties"], grace_s=5) == []


def test_the_guard_ends_the_nodes_when_its_owners_end_of_the_pipe_closes(start: Start, tmp_path: Path) -> None:
    properties = tmp_path / "server.properties"
    start(properties)
    guard = Guard([properties], 5.0, tmp_path / "guard.log")
    os.close(guard._pipe)  # what the system does when the owner is killed
    wait_until(lambda: not find_nodes([properties]), "the guard ends the node")
    os.waitpid(guard._pid, 0)
    assert (tmp_path / "guard.log").read_text() == ""


def test_a_dismissed_guard_ends_nothing(start: Start, tmp_path: Path) -> None:
    properties = tmp_path / "server.properties"
    pid = start(properties)
    Guard([properties], 5.0, tmp_path / "guard.log").dismiss()
    assert find_nodes([properties]) == {properties: pid}
    assert (tmp_path / "guard.log").read_text() == ""
