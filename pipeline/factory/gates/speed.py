"""What a variant costs: milliseconds a run, and memory, which only a process of its own can tell."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.runtime.onnx import open_session
from pipeline.runtime.session import DecoderSession, Session
from pipeline.settings import RuntimeSettings

__all__ = ["SPEEDUP", "decoder_milliseconds", "memory_megabytes", "milliseconds", "no_faster"]

Feeds = Mapping[str, npt.NDArray[Any]]
BATCHES = (1, 8, 32)
RUNS = 3
SPEEDUP = "speedup_batch_"
LONGEST_S = 1.5
"""A run that would take longer, going by the smaller batches, is left out."""
MEMORY_TIMEOUT_S = 120


def milliseconds(session: Session, feeds: Feeds) -> dict[str, float]:
    """``ms_batch_1``, ``_8`` and ``_32``: the fastest of a few runs of one record's ``feeds``, repeated."""
    return _timed(lambda count: session.run({name: np.repeat(value, count, axis=0) for name, value in feeds.items()}))


def decoder_milliseconds(decoder: DecoderSession, slots: int) -> dict[str, float]:
    """The same of one decoding step, of as many sequences as there are slots."""

    def step(count: int) -> None:
        decoder.step(0, np.ones((count, 1), np.int64), np.ones(count, np.int64))

    return _timed(step, slots)


def no_faster(measured: Mapping[str, float]) -> str:
    """How many times faster than FP32 a variant is, by batch, if that is over 1 in none of them; else nothing."""
    speedups = {name.removeprefix(SPEEDUP): value for name, value in measured.items() if name.startswith(SPEEDUP)}
    if not speedups or max(speedups.values()) > 1:
        return ""
    return ", ".join(f"{value:g} times its speed in batches of {count}" for count, value in speedups.items())


def _timed(run: Callable[[int], object], most: int = BATCHES[-1]) -> dict[str, float]:
    figures: dict[str, float] = {}
    seconds = 0.0
    for count in (count for count in BATCHES if count <= most):
        if seconds * 4 > LONGEST_S:
            break
        run(count)
        seconds = min(_seconds(run, count) for _ in range(RUNS))
        figures[f"ms_batch_{count}"] = round(1_000 * seconds, 3)
    return figures


def _seconds(run: Callable[[int], object], count: int) -> float:
    start = time.perf_counter()
    run(count)
    return time.perf_counter() - start


def memory_megabytes(graph: Path, feeds: Feeds | None = None) -> float | None:
    """What loading ``graph`` and running ``feeds`` adds to a process at its peak; ``None`` where that is not known."""
    packed = io.BytesIO()
    arrays: dict[str, Any] = dict(feeds or {})
    np.savez(packed, **arrays)
    command = [sys.executable, "-m", "pipeline.factory.gates.speed", str(graph)]
    try:
        done = subprocess.run(
            command, input=packed.getvalue(), capture_output=True, timeout=MEMORY_TIMEOUT_S, check=True
        )
        return float(json.loads(done.stdout)["megabytes"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return None


def _resident(field: str) -> int:
    """A figure of this process in bytes (Linux, proc_pid_status(5))."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def _measure(graph: Path, packed: bytes) -> float:
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        feeds = {name: arrays[name] for name in arrays.files}
    before = _resident("VmRSS")
    session = open_session(graph, RuntimeSettings(provider="cpu"))
    if feeds:
        session.run(feeds)
    return (_resident("VmHWM") - before) / 1e6


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"megabytes": _measure(Path(sys.argv[1]), sys.stdin.buffer.read())}))
