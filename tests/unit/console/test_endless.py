"""Commands that run a graph on a sample that it never answers: a signal ends them, and so does time."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from pipeline.runtime.limit import Bound
from tests.endless_model import ENDLESS, put_endless
from tests.unit.console.test_models import run
from tests.waiting import wait_until

COMMANDS = {
    "tune": ("tune", "endless", "--samples", "photos"),
    "optimize": ("optimize", "endless", "--calibration", "photos", "--evaluation", "photos"),
    "prune": ("prune", "endless", "--kind", "structured", "--amount", "0.5", "--evaluation", "photos"),
}


@pytest.fixture(autouse=True)
def endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of a model, and a folder with an image that it loops on."""
    monkeypatch.setenv("MILLRACE_MODELS__STORE", str(tmp_path / "store"))
    monkeypatch.setenv("MILLRACE_RUNTIME__PROVIDER", "cpu")
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for shade in (1, ENDLESS):
        Image.new("L", (8, 8), shade).save(tmp_path / "photos" / f"{shade}.png")
    put_endless(tmp_path / "store")
    return tmp_path / "store"


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        (COMMANDS["tune"], signal.SIGTERM),
        (COMMANDS["tune"], signal.SIGINT),
        (COMMANDS["optimize"], signal.SIGTERM),
        (COMMANDS["prune"], signal.SIGINT),
    ],
)
def test_a_signal_ends_a_command_whose_graph_does_not_end(
    arguments: Sequence[str], number: int, endless: Path, tmp_path: Path
) -> None:
    with (tmp_path / "log").open("w") as log:
        working = subprocess.Popen([sys.executable, "-c", TELLING, "models", *arguments], stdout=log, stderr=log)
    try:
        wait_until(lambda: (tmp_path / "looping").exists() or working.poll() is not None, "it loops", timeout_s=180)
        assert working.poll() is None, (tmp_path / "log").read_text()
        working.send_signal(number)
        assert working.wait(60) == 1
    finally:
        working.kill()
    said = (tmp_path / "log").read_text()
    assert said.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in said
    assert [folder.name for folder in (endless / "endless").iterdir()] == ["1"]


TELLING = """
import sys
import threading
from pathlib import Path

from console.main import main
from pipeline.runtime.limit import LIMITS


def tell():
    before, seen = [], 0
    while seen < 20:  # in the same run for a second
        threading.Event().wait(0.05)
        runs = [run for limit in LIMITS for run in limit.runs.copy()]
        seen = seen + 1 if runs and runs == before else 0
        before = runs
    Path("looping").touch()


threading.Thread(target=tell, daemon=True).start()
sys.exit(main())
"""


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_graph_that_does_not_end_is_told_by_the_command(
    command: str, endless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.runtime.onnx.PATIENT", Bound(limit_s=1.0, advice="Leave it out."))
    status, _, error = run(*COMMANDS[command])
    assert status == 1
    assert error.startswith("model endless@1: ")
    assert "fp32.onnx ran longer than 1 s and was ended" in error
    assert error.endswith("Leave it out.")
    assert [folder.name for folder in (endless / "endless").iterdir()] == ["1"]
