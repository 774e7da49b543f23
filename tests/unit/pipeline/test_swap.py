"""A promoted version takes over while requests flow: through the engine, the follower, the store and fakes."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from pipeline.engine import Engine
from pipeline.models.pointer import write_pointer
from pipeline.models.store import find_model
from pipeline.runtime.fakes import (
    FakeBackend,
    FakeDecoder,
    FakeSession,
    fake_classifier,
    fake_detector,
    fake_embedder,
    fake_generator,
    fake_reader,
    fake_text_classifier,
    fake_zero_shot,
)
from pipeline.runtime.session import CacheLayout, SessionError
from schemas.messages import Outcome, TokenPiece
from tests.model_store import put_version
from tests.unit.pipeline.helpers import image_request, settings, text_request
from tests.waiting import PATIENCE_S, until

LOOK_S = 0.01
PLUG = 99


S = TypeVar("S", FakeSession, FakeDecoder)


class Device(FakeBackend):
    """Opens fakes by version: a run with the plug waits, opening does what it is told, and sessions are watched."""

    def __init__(self) -> None:
        super().__init__(fault=self._fault)
        self.held, self.released = threading.Event(), threading.Event()
        self.opening: dict[str, Callable[[], None]] = {}
        self._sessions: dict[str, list[weakref.ref[Any]]] = {}
        self.fails: set[str] = set()

    def open_session(self, path: Path) -> FakeSession:
        return self._watched(path, super().open_session(path))

    def open_decoder(self, path: Path, layout: CacheLayout) -> FakeDecoder:
        return self._watched(path, super().open_decoder(path, layout))

    def _watched(self, path: Path, session: S) -> S:
        version = path.parent.name
        self.opening.get(version, lambda: None)()
        self._sessions.setdefault(version, []).append(weakref.ref(session))
        if version in self.fails:
            session._fault = lambda _: True
        return session

    def alive(self, version: str) -> int:
        """How many of the sessions that were opened for a version are still there."""
        return sum(session() is not None for session in self._sessions[version])

    def _fault(self, inputs: Any) -> bool:
        if (np.asarray(inputs) == PLUG).any():
            self.held.set()
            assert self.released.wait(PATIENCE_S)
        return False


class Served:
    """An engine that follows ``toy`` in a store."""

    def __init__(self, store: Path, device: Device, *specs: str, **sections: dict[str, Any]) -> None:
        self.store, self.device = store, device
        models = {"store": str(store), "watch_interval_s": LOOK_S} | sections.pop("models", {})
        configured = settings(models=models, **sections)
        found = [find_model(spec, configured) for spec in specs]
        self.engine = Engine(configured, found, specs=specs, backend=device)

    def promote(self, version: str) -> None:
        write_pointer(self.store / "toy", version)

    async def serves(self, version: str) -> None:
        await until(lambda: version in [model.version for model in self.engine.models], f"version {version} serves")

    async def is_held(self) -> None:
        await until(self.device.held.is_set, "the device runs the plug")

    async def let_go(self, version: str) -> None:
        await until(lambda: not self.device.alive(version), f"the sessions of version {version} are let go")

    async def refuses(self) -> None:
        await until(lambda: self.swaps("refused"), "the promoted version is refused")

    async def has_one_lane(self) -> None:
        await until(lambda: len(self.engine._lanes._all()) == 1, "the lane of the version before is closed")

    async def version_of_answer(self) -> str:
        outcome = await self.engine.submit(image_request())
        assert outcome.model is not None
        return outcome.model.version

    def swaps(self, result: str) -> float:
        labels = {"model": "toy", "result": result}
        return self.engine.metrics.registry.get_sample_value("millrace_model_swaps_total", labels) or 0.0

    def series(self) -> set[str]:
        families = self.engine.metrics.registry.collect()
        return {s.labels["model"] for f in families for s in f.samples if "@" in s.labels.get("model", "")}


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Starts an engine on the versions that the test has put into ``tmp_path``."""
    started: list[Served] = []

    async def start(*specs: str, **sections: dict[str, Any]) -> Served:
        served = Served(tmp_path, Device(), *(specs or ("toy",)), **sections)
        started.append(served)
        await served.engine.start()
        return served

    yield start
    for served in started:
        served.device.released.set()
        await served.engine.close()


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def put_two(store: Path, **fields: Any) -> None:
    put_version(store, "1", **fields)
    put_version(store, "2", **fields)
    write_pointer(store / "toy", "1")


@pytest.mark.usefixtures("no_garbage_collection")
async def test_the_promoted_version_answers_while_the_one_before_finishes_and_then_lets_its_session_go(
    tmp_path: Path, serve: Any
) -> None:
    put_two(tmp_path)
    served = await serve()
    plugged = asyncio.create_task(served.engine.submit(image_request(PLUG)))
    await served.is_held()
    behind = asyncio.create_task(served.engine.submit(image_request(1)))
    await until(lambda: len(served.engine._pending) == 2, "a request waits behind the plug")
    served.promote("2")
    await served.serves("2")
    later = asyncio.create_task(served.engine.submit(image_request(2)))
    await asyncio.sleep(0.05)
    assert not plugged.done()
    assert served.device.alive("1") == 1
    served.device.released.set()
    outcomes = await asyncio.gather(plugged, behind, later)
    assert [outcome.model.version for outcome in outcomes if outcome.model] == ["1", "1", "2"]
    assert {outcome.status for outcome in outcomes} == {"ok"}
    await served.let_go("1")
    assert served.device.alive("2") == 1
    assert served.swaps("ok") == 1


async def test_no_request_of_a_steady_flow_fails_or_is_answered_by_the_old_version_after_the_new_one(
    tmp_path: Path, serve: Any
) -> None:
    put_two(tmp_path)
    served = await serve()
    tasks: list[asyncio.Task[Outcome]] = []

    async def send(count: int) -> None:
        for _ in range(count):
            tasks.append(asyncio.create_task(served.engine.submit(image_request(len(tasks) % 90))))
            await asyncio.sleep(0.001)

    await send(100)
    served.promote("2")
    async with asyncio.timeout(PATIENCE_S):
        while served.engine.models[0].version != "2":
            await send(1)
    await send(100)
    versions = [outcome.model.version for outcome in await asyncio.gather(*tasks) if outcome.model]
    assert len(versions) == len(tasks)
    assert versions == sorted(versions)
    assert set(versions) == {"1", "2"}


@pytest.mark.usefixtures("no_garbage_collection")
async def test_texts_in_slots_finish_on_the_old_version_and_their_pieces_keep_their_outcome_s_id(
    tmp_path: Path, serve: Any
) -> None:
    put_two(tmp_path, make=fake_generator)
    served = await serve()
    pieces: list[TokenPiece] = []
    # "c" is the byte 99, the plug: the fake decoder stops in the middle of its answer.
    first = asyncio.create_task(served.engine.submit(text_request("abc", stream=True), emit=pieces.append))
    await served.is_held()
    served.promote("2")
    await served.serves("2")
    assert not first.done()
    served.device.released.set()
    old, new = await asyncio.gather(first, served.engine.submit(text_request("xyz")))
    assert (old.model.version, old.output.text) == ("1", "abc")
    assert (new.model.version, new.output.text) == ("2", "xyz")
    assert {piece.outcome_id for piece in pieces} == {old.id}
    assert [piece.index for piece in pieces] == list(range(len(pieces)))
    await served.let_go("1")


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize(
    ("make", "request_of"),
    [
        (fake_classifier, image_request),
        (fake_detector, partial(image_request, task="object-detection")),
        (fake_zero_shot, partial(image_request, task="embeddings")),
        (fake_text_classifier, partial(text_request, task="text-classification")),
        (fake_embedder, partial(text_request, task="embeddings")),
        (fake_generator, text_request),
        (fake_reader, partial(image_request, task="image-to-text", prompt="what?")),
    ],
)
async def test_a_model_of_any_task_takes_over_and_the_one_before_keeps_no_session(
    tmp_path: Path, serve: Any, make: Any, request_of: Any
) -> None:
    put_two(tmp_path, make=make)
    served = await serve()
    assert (await served.engine.submit(request_of())).model.version == "1"
    served.promote("2")
    await served.serves("2")
    assert (await served.engine.submit(request_of())).model.version == "2"
    await served.let_go("1")
    assert served.device.alive("2")


def damage(folder: Path, served: Served) -> None:
    (folder / "int8.onnx").write_bytes(b"changed")


def remove(folder: Path, served: Served) -> None:
    for file in folder.iterdir():
        file.unlink()


def spoil_card(folder: Path, served: Served) -> None:
    (folder / "model.toml").write_text("no card")


def other_task(folder: Path, served: Served) -> None:
    put_version(folder.parent.parent, "2", make=fake_generator)


def no_room(folder: Path, served: Served) -> None:
    with (folder / "int8.onnx").open("wb") as file:
        file.truncate(2**40)


def fail_warm_up(folder: Path, served: Served) -> None:
    served.device.fails.add("2")


def fail_to_open(folder: Path, served: Served) -> None:
    def refuse() -> None:
        raise SessionError("the device is busy")

    served.device.opening["2"] = refuse


def run_out_of_memory(folder: Path, served: Served) -> None:
    def refuse() -> None:
        raise MemoryError("no more")

    served.device.opening["2"] = refuse


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (damage, r"int8\.onnx is damaged"),
        (remove, "names version '2', which is not here, only 1"),
        (spoil_card, r"model card .*model\.toml"),
        (other_task, "toy@2 does text-generation and toy@1 does image-classification"),
        (no_room, "toy@2 int8 does not fit the cpu: it needs about"),
        (fail_warm_up, "toy@2: the warm-up failed"),
        (fail_to_open, "the device is busy"),
        (run_out_of_memory, "cannot be opened: MemoryError"),
    ],
)
async def test_a_version_that_cannot_serve_is_refused_once_and_the_one_before_goes_on(
    tmp_path: Path,
    serve: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path, Served], None],
    reason: str,
) -> None:
    put_two(tmp_path)
    put_version(tmp_path, "3")
    if spoil is no_room:
        monkeypatch.setattr("pipeline.models.store.ServedModel.verify", lambda *_: None)  # of a file of a terabyte
    served = await serve()
    spoil(tmp_path / "toy" / "2", served)
    with caplog.at_level(logging.WARNING):
        served.promote("2")
        await served.refuses()
        await asyncio.sleep(10 * LOOK_S)
    (line,) = [r.getMessage() for r in caplog.records if r.name == "pipeline.follower"]
    assert line.startswith("model toy: the promoted version is not taken, toy@1 goes on: ")
    assert re.search(reason, line), line
    assert served.swaps("refused") == 1
    assert await served.version_of_answer() == "1"
    assert not served.engine.failed.done()
    served.promote("3")
    await served.serves("3")
    assert await served.version_of_answer() == "3"


@pytest.mark.usefixtures("no_garbage_collection")
async def test_a_session_whose_warm_up_failed_is_let_go(tmp_path: Path, serve: Any) -> None:
    put_two(tmp_path)
    served = await serve()
    served.device.fails.add("2")
    served.promote("2")
    await served.refuses()
    await served.let_go("2")


async def test_what_was_refused_is_tried_again_when_it_is_promoted_again(tmp_path: Path, serve: Any) -> None:
    put_two(tmp_path)
    served = await serve()
    served.device.fails.add("2")
    served.promote("2")
    await served.refuses()
    served.device.fails.clear()
    served.promote("2")
    await served.serves("2")


async def test_a_promoted_version_that_was_built_again_takes_over_from_itself(tmp_path: Path, serve: Any) -> None:
    put_two(tmp_path)
    served = await serve()
    before = (await served.engine.submit(image_request())).model.digest
    put_version(tmp_path, "1", graph=b"built again")
    await until(lambda: served.engine.models[0].digest != before, "what was built again serves")
    assert (await served.engine.submit(image_request())).model.digest == served.engine.models[0].digest


async def test_going_back_and_forth_leaves_one_lane_and_the_series_of_two_versions(tmp_path: Path, serve: Any) -> None:
    put_two(tmp_path)
    for version in ("3", "4", "5"):
        put_version(tmp_path, version)
    served = await serve()
    for version in ("2", "3", "1", "4", "5"):
        served.promote(version)
        await served.serves(version)
        assert await served.version_of_answer() == version
        await served.has_one_lane()
    assert served.series() == {"toy@4", "toy@5"}
    info = {"model": "toy@5", "variant": "int8", "provider": "cpu"}
    assert served.engine.metrics.registry.get_sample_value("millrace_model_info", info) == 1


async def test_the_count_of_runs_never_falls(tmp_path: Path, serve: Any) -> None:
    put_two(tmp_path)
    served = await serve()
    for _ in range(3):
        await served.engine.submit(image_request())
    before = served.engine.runs
    served.promote("2")
    await served.serves("2")
    await served.has_one_lane()
    assert served.engine.runs >= before >= 3


async def test_a_model_that_was_asked_for_with_its_version_stays(tmp_path: Path, serve: Any) -> None:
    put_two(tmp_path)
    served = await serve("toy@1", "toy")
    served.promote("2")
    await served.serves("2")
    assert [model.version for model in served.engine.models] == ["1", "2"]


async def test_an_interval_of_zero_never_looks(tmp_path: Path, serve: Any) -> None:
    put_two(tmp_path)
    served = await serve(models={"watch_interval_s": 0})
    served.promote("2")
    await asyncio.sleep(10 * LOOK_S)
    assert served.engine.models[0].version == "1"


async def test_a_model_serves_beside_itself_under_its_version(tmp_path: Path, serve: Any) -> None:
    put_two(tmp_path)
    served = await serve("toy", "toy@1")
    outcomes = await asyncio.gather(
        *(
            served.engine.submit(image_request(number, model_version=version))
            for number in range(20)
            for version in (None, "1")
        )
    )
    assert {outcome.status for outcome in outcomes} == {"ok"}


async def test_closing_the_engine_leaves_a_swap_that_is_under_way(tmp_path: Path, serve: Any) -> None:
    put_two(tmp_path)
    served = await serve()
    entered, leave = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        leave.wait(PATIENCE_S)

    served.device.opening["2"] = wait
    served.promote("2")
    await until(entered.is_set, "the promoted version is being opened")
    closing = asyncio.create_task(served.engine.close())
    await asyncio.sleep(0.05)
    leave.set()
    assert await asyncio.wait_for(closing, PATIENCE_S)
    assert served.swaps("ok") == served.swaps("refused") == 0


async def test_a_version_whose_opening_hangs_is_refused_in_the_end_and_the_next_one_is_taken(
    tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.follower.OPEN_TIMEOUT_S", 0.1)
    put_two(tmp_path)
    put_version(tmp_path, "3")
    served = await serve()
    hang = threading.Event()
    served.device.opening["2"] = lambda: (hang.wait(PATIENCE_S), None)[1]
    served.promote("2")
    await served.refuses()
    assert await served.version_of_answer() == "1"
    monkeypatch.undo()  # a sound version may take longer on a machine under load
    served.promote("3")
    await served.serves("3")
    hang.set()
