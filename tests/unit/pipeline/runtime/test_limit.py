"""Runs that never end, on the real ONNX Runtime: they are ended, and what is left serves on."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.engine import Engine
from pipeline.runtime.limit import LOOKS, Bound, Run, RunLimit, end_runs, limit_of, runs_end_on_signals, serving
from pipeline.runtime.onnx import OnnxBackend
from pipeline.runtime.session import CacheLayout, SessionError
from pipeline.settings import RuntimeSettings, WorkerSettings
from schemas.errors import RecordError
from schemas.messages import ClassificationOutput, Outcome
from tests.endless_model import ENDLESS, constants, loop, put_endless
from tests.unit.pipeline.helpers import image_request, settings
from tests.waiting import wait_until

CPU = RuntimeSettings(provider="cpu", threads=2)
SHORT = Bound(limit_s=1.0, advice="Do something else.")
LONG = Bound(limit_s=3_600.0, advice="Wait.")
LAYOUT = CacheLayout(layers=1, slots=3, kv_heads=1, max_length=4, head_size=1, vocabulary=5)


def pixels(*first: int) -> dict[str, np.ndarray]:
    images = np.zeros((len(first), 8, 8, 1), np.uint8)
    images[:, 0, 0, 0] = first
    return {"pixels": images}


def endless_decoder(folder: Path) -> Path:
    """Never answers :data:`ENDLESS`; the logits of any other token are its distances to the vocabulary, negated."""
    cache = ["N", 1, "L", 1]
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
        *loop("numbers", "looped"),
        helper.make_node("Sub", ["looped", "tokens"], ["apart"]),
        helper.make_node("Abs", ["apart"], ["far"]),
        helper.make_node("Neg", ["far"], ["logits"]),
        helper.make_node("Identity", ["past_key_0"], ["present_key_0"]),
        helper.make_node("Identity", ["past_value_0"], ["present_value_0"]),
    ]
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["N", 1]),
        helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, ["N"]),
        helper.make_tensor_value_info("total_sequence_length", TensorProto.INT32, []),
        helper.make_tensor_value_info("logits_at", TensorProto.INT64, ["N"]),
        *(helper.make_tensor_value_info(f"past_{name}_0", TensorProto.FLOAT, cache) for name in ("key", "value")),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", LAYOUT.vocabulary]),
        *(helper.make_tensor_value_info(f"present_{name}_0", TensorProto.FLOAT, cache) for name in ("key", "value")),
    ]
    tokens = numpy_helper.from_array(np.arange(LAYOUT.vocabulary, dtype=np.float32)[None], "tokens")
    graph = helper.make_graph(nodes, "endless", inputs, outputs, [*constants(), tokens])
    path = folder / "toy" / "3" / "fp32.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_run_that_does_not_end_is_ended_and_the_session_goes_on(tmp_path: Path) -> None:
    path = put_endless(tmp_path).folder / "fp32.onnx"
    session = OnnxBackend(CPU, bound=SHORT).open_session(path)
    for _ in range(2):
        with pytest.raises(SessionError, match=r"^the graph endless/1/fp32\.onnx ran longer than 1 s") as caught:
            session.run(pixels(1, ENDLESS))
        assert str(caught.value).endswith("Do something else.")
        assert session.run(pixels(1, 7))["logits"].argmax(1).tolist() == [1, 7]


def test_a_step_of_a_decoder_that_does_not_end_is_ended_and_the_next_one_runs(tmp_path: Path) -> None:
    decoder = OnnxBackend(CPU, bound=SHORT).open_decoder(endless_decoder(tmp_path), LAYOUT)
    lengths = np.zeros(2, np.int64)
    for _ in range(2):
        with pytest.raises(SessionError, match=r"toy/3/fp32\.onnx ran longer than 1 s"):
            decoder.step(0, np.array([[1], [ENDLESS]]), lengths)
        assert decoder.step(0, np.array([[1], [3]]), lengths).argmax(1).tolist() == [1, 3]


class FakeOptions:
    def __init__(self) -> None:
        self.terminate = False


def test_a_run_is_ended_when_it_was_there_for_as_long_as_it_may() -> None:
    limit = RunLimit(8.0)
    first, later = Run(FakeOptions()), Run(FakeOptions())
    limit.runs.add(first)
    limit.look(1.0)  # nobody knows when before that it began
    limit.runs.add(later)
    ended = []
    for passed_s in (1.0, 2.0, 1.0, 2.0, 1.0, 1.0):
        limit.look(passed_s)
        ended.append((first.options.terminate, first.overdue, later.options.terminate))
    assert ended == [(False, False, False)] * 5 + [(True, True, False)]


def test_a_process_that_was_frozen_ends_no_run_for_that() -> None:
    limit, run = RunLimit(8.0), Run(FakeOptions())
    limit.runs.add(run)
    limit.look(1.0)
    for _ in range(3):
        limit.look(3_600.0)
    assert not run.options.terminate
    assert not run.overdue


def test_a_run_that_is_over_is_not_looked_at(tmp_path: Path) -> None:
    session = OnnxBackend(CPU, bound=LONG).open_session(put_endless(tmp_path).folder / "fp32.onnx")
    session.run(pixels(1))
    assert not limit_of(LONG.limit_s).runs


def test_one_thread_looks_after_all_runs_of_one_limit(tmp_path: Path) -> None:
    path = put_endless(tmp_path).folder / "fp32.onnx"
    for _ in range(3):
        OnnxBackend(CPU, bound=LONG).open_session(path)
    assert [thread.name for thread in threading.enumerate()].count("millrace-limit-3600s") == 1


@pytest.mark.parametrize("watchdog_s", [0.1, 120.0, math.inf])
def test_a_run_is_ended_before_the_watchdog_would_end_the_worker(watchdog_s: float) -> None:
    limit_s = serving(WorkerSettings(watchdog_timeout_s=watchdog_s)).limit_s
    assert limit_s * (LOOKS + 1) / LOOKS < watchdog_s or limit_s == math.inf


def test_no_run_is_ended_where_there_is_no_watchdog(tmp_path: Path) -> None:
    bound = serving(WorkerSettings(watchdog_timeout_s=math.inf))
    session = OnnxBackend(CPU, bound=bound).open_session(put_endless(tmp_path).folder / "fp32.onnx")
    assert session.run(pixels(3))["logits"].argmax(1).tolist() == [3]


async def test_the_record_that_loops_is_to_blame_and_its_neighbours_are_answered(tmp_path: Path) -> None:
    engine = Engine(
        settings(
            runtime={"provider": "cpu", "threads": 2},
            worker={"watchdog_timeout_s": 2.0},
            batching={"max_batch_size": 8},
        ),
        [put_endless(tmp_path)],
    )
    await engine.start()
    try:
        requests = [image_request(shade) for shade in (ENDLESS, 1, 2, 3, 4, 5, 6, 7)]
        found = await asyncio.gather(*map(engine.submit, requests), return_exceptions=True)
        again = await engine.submit(image_request(9))
    finally:
        await engine.close()
    assert isinstance(found[0], RecordError)
    assert found[0].code == "inference_error"
    assert "the graph endless/1/fp32.onnx ran longer than 1 s" in found[0].message
    assert "worker.watchdog_timeout_s" in found[0].message
    assert [label_of(outcome) for outcome in [*found[1:], again]] == ["1", "2", "3", "4", "5", "6", "7", "9"]


def label_of(outcome: Outcome | BaseException) -> str:
    assert isinstance(outcome, Outcome), outcome
    assert isinstance(outcome.output, ClassificationOutput)
    return outcome.output.labels[0].label


def once_it_runs(limit: RunLimit, act: Callable[[], None]) -> threading.Thread:
    def main() -> None:
        wait_until(lambda: limit.runs, "the run has begun")
        act()

    thread = threading.Thread(target=main)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_of_the_main_thread(tmp_path: Path, number: signal.Signals) -> None:
    session = OnnxBackend(CPU, bound=LONG).open_session(put_endless(tmp_path).folder / "fp32.onnx")
    handler, wakeup = signal.signal(number, signal.default_int_handler), signal.set_wakeup_fd(-1)
    thread = once_it_runs(limit_of(LONG.limit_s), lambda: os.kill(os.getpid(), number))
    try:
        with pytest.raises(KeyboardInterrupt), runs_end_on_signals():
            session.run(pixels(ENDLESS))
    finally:
        thread.join()
        signal.signal(number, handler)
        assert signal.set_wakeup_fd(wakeup) == -1
    assert session.run(pixels(5))["logits"].argmax(1).tolist() == [5]


def test_another_signal_ends_no_run(tmp_path: Path) -> None:
    session = OnnxBackend(CPU, bound=LONG).open_session(put_endless(tmp_path).folder / "fp32.onnx")
    handled: list[int] = []
    handler = signal.signal(signal.SIGUSR1, lambda number, _: handled.append(number))

    def act() -> None:
        run = next(iter(limit_of(LONG.limit_s).runs))
        os.kill(os.getpid(), signal.SIGUSR1)
        assert not threading.Event().wait(0.2)
        ended.append(run.options.terminate)
        end_runs()

    ended: list[bool] = []
    thread = once_it_runs(limit_of(LONG.limit_s), act)
    try:
        with runs_end_on_signals(), pytest.raises(SessionError, match="terminate flag"):
            session.run(pixels(ENDLESS))
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, handler)
    assert ended == [False]
    assert handled == [signal.SIGUSR1]
