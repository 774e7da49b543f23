from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from console.processes import ProcessId, end_all
from console.state import AlreadyUpError, StateFile, UpState
from pipeline.errors import MillraceError


@pytest.fixture
def sleeper() -> ProcessId:
    return ProcessId.of(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid)


def test_a_process_is_known_by_pid_and_start_time() -> None:
    me = ProcessId.of(os.getpid())
    assert me.alive()
    assert not ProcessId(pid=me.pid, started="another time").alive()


def test_a_pid_given_to_another_process_is_not_signalled() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        ProcessId(pid=child.pid, started="another time").signal(signal.SIGKILL)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)
        ProcessId.of(child.pid).signal(signal.SIGKILL)
        assert child.wait(10) == -signal.SIGKILL


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_processes_are_ended_and_dead_ones_do_not_live(sleeper: ProcessId) -> None:
    assert sleeper.alive()
    assert end_all([sleeper], 5.0)
    assert not sleeper.alive()
    os.waitpid(sleeper.pid, 0)


def test_the_state_is_read_back(tmp_path: Path) -> None:
    state = StateFile(tmp_path)
    written = UpState(supervisor=ProcessId.of(os.getpid()), bootstrap_servers="b:1", started_broker=True)
    state.write(written)
    assert state.read() == written
    state.remove()
    state.remove()
    assert state.read() is None


def test_a_torn_state_file_reads_as_none(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text('{"supervisor": ')
    assert StateFile(tmp_path).read() is None


def test_the_lock_is_held_once_and_freed(tmp_path: Path) -> None:
    state = StateFile(tmp_path)
    assert not state.held()
    with state.locked():
        assert state.held()
        with pytest.raises(AlreadyUpError), StateFile(tmp_path).locked():
            pass
    assert not state.held()


def test_an_unusable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MillraceError, match=r"file.*XDG_STATE_HOME"), StateFile(tmp_path / "file").locked():
        pass
