from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from pipeline.factory.graph import GraphWriter

RUN = """
import sys
from pathlib import Path
from pipeline.runtime.onnx import open_session
from pipeline.settings import RuntimeSettings
open_session(Path(sys.argv[1]), RuntimeSettings(provider="cpu"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the cache's place is Linux's")
def test_a_session_leaves_no_device_id_behind(tmp_path: Path) -> None:
    graph = GraphWriter("negate")
    graph.node("Neg", [graph.input("x", "float32", ["N"])], outputs=["logits"])
    graph.output("logits", "float32", ["N"])
    onnx.save(graph.model("negates"), tmp_path / "negate.onnx")
    cache = tmp_path / "cache"
    cache.mkdir()
    # Under CI ONNX Runtime keeps quiet by itself, and then this test could not fail.
    hidden = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "ORT_DISABLE_TELEMETRY", "PYTEST_CURRENT_TEST")
    environ = {name: value for name, value in os.environ.items() if name not in hidden}
    environ |= {"XDG_CACHE_HOME": str(cache), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", RUN, str(tmp_path / "negate.onnx")], check=True, env=environ)
    assert list(cache.rglob("*")) == []
