"""What a batch that fails costs, and whom: through the engine, with the planner, the runner and the tasks."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import pipeline.engine
from pipeline.engine import Engine
from pipeline.errors import EngineError
from pipeline.runtime.fakes import FakeBackend, FakeDecoder, FakeSession
from pipeline.runtime.session import CacheLayout
from schemas.errors import InferenceError
from schemas.messages import InferenceRequest, Outcome
from tests.unit.pipeline.helpers import StartEngine, image_request, text_request
from tests.waiting import PATIENCE_S, until

Array = npt.NDArray[Any]
PLUG, POISON = 99, 66
BATCH: dict[str, Any] = {"max_batch_size": 64, "max_slots": 65, "max_length": 64, "prefill_chunk_tokens": 4_096}


class Device:
    """Counts its runs, fails as it is told, and can be held in a run until a batch has come together behind it.

    Args:
        fails: given a run's pixels or token ids, whether it fails.
    """

    def __init__(self, fails: Callable[[Array], bool] = lambda _: False) -> None:
        self.fails = fails
        self.sizes: list[int] = []
        self.held, self.released = threading.Event(), threading.Event()

    def __call__(self, inputs: Array) -> bool:
        if (inputs == PLUG).any():
            self.held.set()
            assert self.released.wait(PATIENCE_S)
            return False
        self.sizes.append(len(inputs))
        return self.fails(inputs)

    async def serve_together(self, engine: Engine, requests: Sequence[InferenceRequest]) -> list[Outcome | Exception]:
        """Hold the model with a request more until all others are ready to run; their results."""
        plug = image_request(PLUG) if requests[0].task == "image-classification" else text_request(chr(PLUG))
        blocker = asyncio.create_task(engine.submit(plug))
        await until(self.held.is_set, "the device runs the plug")
        self.sizes.clear()
        tasks = [asyncio.create_task(engine.submit(request)) for request in requests]
        await until(lambda: len(engine._pending) == len(requests) + 1, "all requests are ready to run")
        self.released.set()
        await blocker
        return await asyncio.gather(*tasks, return_exceptions=True)  # type: ignore[return-value]


def images(poison: int | None = None) -> list[InferenceRequest]:
    return [image_request(POISON if place == poison else place % 10) for place in range(64)]


def prompts(poison: int | None = None) -> list[InferenceRequest]:
    """All of one length, so that all 64 are decoded together when the poison's last character is."""
    ends = ["!" if place == poison else "." for place in range(64)]
    return [text_request(f"this is the prompt number {place:02}{end}") for place, end in enumerate(ends)]


def poisoned(inputs: Array) -> bool:
    if inputs.ndim == 2:
        return inputs.shape[1] == 1 and bool((inputs == ord("!")).any())
    return bool((inputs.reshape(len(inputs), -1)[:, 0] == POISON).any())


@pytest.mark.parametrize("make", [images, prompts])
@pytest.mark.parametrize("poison", [0, 1, 13, 31, 32, 62, 63])
async def test_a_poison_record_in_a_batch_of_64_costs_the_others_nothing_but_8_runs_at_most(
    start_engine: StartEngine, make: Callable[[int], list[InferenceRequest]], poison: int
) -> None:
    requests = make(poison)
    results: list[list[Outcome | Exception]] = []
    runs: list[int] = []
    for fails in (lambda _: False, poisoned):
        device = Device(fails)
        engine = await start_engine(FakeBackend(fault=device), batching=BATCH)
        results.append(await device.serve_together(engine, requests))
        runs.append(len(device.sizes))
        assert max(device.sizes) == 64
    assert runs[0] < runs[1] <= runs[0] + 8
    good, found = results
    assert isinstance(found[poison], InferenceError)
    for place, (before, after) in enumerate(zip(good, found, strict=True)):
        assert isinstance(before, Outcome)
        if place != poison:
            assert isinstance(after, Outcome)
            assert (after.id, after.status, after.output) == (before.id, "ok", before.output)


async def test_each_run_of_a_batch_that_is_divided_counts_for_the_watchdog(start_engine: StartEngine) -> None:
    device = Device(poisoned)
    engine = await start_engine(FakeBackend(fault=device), batching=BATCH)
    before = engine.runs
    await device.serve_together(engine, images(poison=0))
    assert engine.runs - before == len(device.sizes) + 1 == 10  # one is the plug's


@pytest.mark.parametrize("make", [images, prompts])
async def test_a_failure_that_passes_costs_one_run_and_nobody(
    start_engine: StartEngine, make: Callable[[], list[InferenceRequest]]
) -> None:
    device = Device()
    engine = await start_engine(FakeBackend(fault=device), batching=BATCH)
    left = iter([True])
    device.fails = lambda inputs: len(inputs) == 64 and next(left, False)
    results = await device.serve_together(engine, make())
    assert all(isinstance(result, Outcome) and result.status == "ok" for result in results)
    value = engine.metrics.registry.get_sample_value
    name = {"model": "fake-images@1" if make is images else "fake-text@1"}
    assert value("millrace_batch_retries_total", name) == 1
    assert value("millrace_batch_bisections_total", name) == 0


@pytest.mark.parametrize("make", [images, prompts])
@pytest.mark.parametrize("fitting", [1, 20, 32, 63])
async def test_a_batch_that_the_device_has_no_memory_for_is_served_in_parts(
    start_engine: StartEngine, make: Callable[[], list[InferenceRequest]], fitting: int
) -> None:
    device = Device()
    engine = await start_engine(FakeBackend(fault=device), batching=BATCH, runtime={"retry_backoff_ms": 0})
    device.fails = lambda inputs: len(inputs) > fitting
    results = await device.serve_together(engine, make())
    assert all(isinstance(result, Outcome) and result.status == "ok" for result in results)
    name = {"model": "fake-images@1" if make is images else "fake-text@1"}
    assert (engine.metrics.registry.get_sample_value("millrace_batch_bisections_total", name) or 0) > 0
    assert not engine.failed.done()


async def test_a_model_that_waits_to_run_again_does_not_hold_up_another(start_engine: StartEngine) -> None:
    engine = await start_engine(
        FakeBackend(fault=poisoned), runtime={"retry_backoff_ms": 60_000, "max_backoff_ms": 60_000}
    )
    failing = asyncio.create_task(engine.submit(image_request(POISON)))
    retries = ("millrace_batch_retries_total", {"model": "fake-images@1"})
    await until(lambda: engine.metrics.registry.get_sample_value(*retries), "the batch waits to run again")
    assert (await asyncio.wait_for(engine.submit(text_request("on")), 30)).status == "ok"
    await asyncio.wait_for(engine.close(), 30)
    with pytest.raises(EngineError, match="closed"):
        await failing


async def test_closing_does_not_wait_for_a_device_that_never_answers(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.engine, "CLOSE_TIMEOUT_S", 0.1)
    held, released = threading.Event(), threading.Event()
    hangs = False

    def fault(_: npt.NDArray[Any]) -> bool:
        if hangs:
            held.set()
            released.wait(PATIENCE_S)
        return False

    engine = await start_engine(FakeBackend(fault=fault))
    hangs = True
    waiting = asyncio.create_task(engine.submit(image_request(1)))
    await until(held.is_set, "the device hangs")
    try:
        assert not await asyncio.wait_for(engine.close(), 30)
        with pytest.raises(EngineError, match="closed"):
            await waiting
    finally:
        released.set()
    monkeypatch.undo()
    assert await engine.close()


class Watched(FakeBackend):
    """Fails for everybody once ``down`` is set, until a session is opened again; knows which of its sessions live."""

    def __init__(self) -> None:
        self.down = False
        self._opened: dict[type, weakref.ref[Any]] = {}
        self.seen_alive: list[type] = []
        super().__init__(fault=lambda _: self.down)

    def open_session(self, path: Path) -> FakeSession:
        self._look_at(FakeSession)
        session = super().open_session(path)
        self._opened[FakeSession] = weakref.ref(session)
        return session

    def open_decoder(self, path: Path, layout: CacheLayout) -> FakeDecoder:
        self._look_at(FakeDecoder)
        session = super().open_decoder(path, layout)
        self._opened[FakeDecoder] = weakref.ref(session)
        return session

    def _look_at(self, kind: type) -> None:
        before = self._opened.get(kind)
        if before is not None and before() is not None:
            self.seen_alive.append(kind)
        self.down = False


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("make", [image_request, text_request])
async def test_a_lost_session_is_let_go_before_the_next_is_opened_since_memory_may_not_hold_two(
    start_engine: StartEngine, make: Callable[[], InferenceRequest]
) -> None:
    backend = Watched()
    engine = await start_engine(backend)
    backend.down = True
    outcomes = await asyncio.gather(*(engine.submit(make()) for _ in range(20)))
    assert {outcome.status for outcome in outcomes} == {"ok"}
    name = "fake-images@1" if make is image_request else "fake-text@1"
    assert engine.metrics.registry.get_sample_value("millrace_session_rebuilds_total", {"model": name}) == 1
    assert backend.seen_alive == []


async def test_outputs_without_a_number_are_that_record_s_own_fault_and_cost_no_run(start_engine: StartEngine) -> None:
    device = Device()
    engine = await start_engine(FakeBackend(fault=device), batching=BATCH)
    original = FakeSession.run

    def run(self: FakeSession, feeds: Any) -> Any:
        outputs = original(self, feeds)
        outputs["logits"][(feeds["pixels"][:, 0, 0, 0] == POISON)] = np.nan
        return outputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeSession, "run", run)
        results = await device.serve_together(engine, images(5))
    assert [place for place, result in enumerate(results) if isinstance(result, InferenceError)] == [5]
    assert device.sizes == [64]
