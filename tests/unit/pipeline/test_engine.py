from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.engine import Engine
from pipeline.errors import EngineError, ModelError
from pipeline.runtime.fakes import FakeBackend, fake_classifier
from schemas.errors import InferenceError, ModelNotFoundError, PrepareError, RecordError
from schemas.messages import ChatMessage, ClassificationOutput, Outcome, TextOutput, TokenPiece, outcome_id
from tests.unit.pipeline.helpers import StartEngine, image_request, settings, text_request
from tests.waiting import PATIENCE_S, until

Array = npt.NDArray[Any]


def label(outcome: Outcome) -> str:
    assert isinstance(outcome.output, ClassificationOutput)
    return outcome.output.labels[0].label


def text(outcome: Outcome) -> str:
    assert isinstance(outcome.output, TextOutput)
    return outcome.output.text


async def test_an_image_gets_its_labels_best_first(start_engine: StartEngine) -> None:
    engine = await start_engine()
    outcome = await engine.submit(image_request(shade=7, top_k=2))
    assert isinstance(outcome.output, ClassificationOutput)
    assert [item.label for item in outcome.output.labels] == ["7", "0"]
    assert outcome.output.labels[0].score > outcome.output.labels[1].score


async def test_an_outcome_says_which_record_and_which_model_it_is_of(start_engine: StartEngine) -> None:
    engine = await start_engine()
    request = image_request(key=b"\xff", traceparent="00-abc-def-01")
    outcome = await engine.submit(request)
    assert outcome.model in engine.models
    assert outcome.id == outcome_id(request.source, "0" * 64)
    assert (outcome.request_id, outcome.source, outcome.status) == (request.id, request.source, "ok")
    assert (outcome.key, outcome.traceparent) == ("base64:/w==", "00-abc-def-01")
    assert outcome.timings.run_ms > 0
    assert abs(outcome.created_at_ms - time.time() * 1_000) < 60_000


async def test_a_prompt_gets_its_answer_and_usage(start_engine: StartEngine) -> None:
    engine = await start_engine()
    outcome = await engine.submit(text_request("grüß"))
    assert outcome.output == TextOutput(text="grüß", finish_reason="stop")
    assert outcome.usage is not None
    assert (outcome.usage.prompt_tokens, outcome.usage.completion_tokens, outcome.usage.total_tokens) == (7, 7, 14)


async def test_messages_go_through_the_chat_template(start_engine: StartEngine) -> None:
    engine = await start_engine()
    messages = (ChatMessage(role="system", content="be kind"), ChatMessage(role="user", content="hi"))
    assert text(await engine.submit(text_request(prompt=None, messages=messages))) == "hi"


async def test_waiting_images_share_runs(start_engine: StartEngine) -> None:
    engine = await start_engine()
    outcomes = await asyncio.gather(*(engine.submit(image_request(i % 10)) for i in range(200)))
    assert [label(outcome) for outcome in outcomes] == [str(i % 10) for i in range(200)]
    assert max(outcome.batch_size for outcome in outcomes) > 1


async def test_prompts_join_and_leave_at_any_step_and_each_gets_its_own_answer(start_engine: StartEngine) -> None:
    engine = await start_engine(batching={"max_slots": 3, "prefill_chunk_tokens": 5})
    prompts = [f"{i}" * (1 + i * 7 % 40) for i in range(60)]
    outcomes = await asyncio.gather(*(engine.submit(text_request(prompt)) for prompt in prompts))
    assert [text(outcome) for outcome in outcomes] == prompts
    assert 1 < max(outcome.batch_size for outcome in outcomes) <= 3


async def test_streamed_pieces_are_numbered_and_put_together_are_the_text(start_engine: StartEngine) -> None:
    engine = await start_engine()
    pieces: list[TokenPiece] = []
    request = text_request("naïve 日本語 🙂", stream=True)
    outcome = await engine.submit(request, emit=pieces.append)
    assert "".join(piece.text for piece in pieces) == text(outcome) == "naïve 日本語 🙂"
    assert [piece.index for piece in pieces] == list(range(len(pieces)))
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["stop"]
    assert {piece.outcome_id for piece in pieces} == {outcome.id}
    assert not any("\ufffd" in piece.text for piece in pieces)


async def test_nothing_is_streamed_unless_asked_for(start_engine: StartEngine) -> None:
    engine = await start_engine()
    pieces: list[TokenPiece] = []
    await engine.submit(text_request("quiet"), emit=pieces.append)
    assert pieces == []


async def test_a_stop_string_ends_the_answer_before_it(start_engine: StartEngine) -> None:
    engine = await start_engine()
    pieces: list[TokenPiece] = []
    request = text_request("one END two", stop=("END",), stream=True)
    outcome = await engine.submit(request, emit=pieces.append)
    assert outcome.output == TextOutput(text="one ", finish_reason="stop")
    assert "".join(piece.text for piece in pieces) == "one "


async def test_max_tokens_ends_the_answer(start_engine: StartEngine) -> None:
    engine = await start_engine()
    outcome = await engine.submit(text_request("abcdef", max_tokens=3))
    assert outcome.output == TextOutput(text="abc", finish_reason="length")


async def test_an_answer_ends_where_the_slot_ends(start_engine: StartEngine) -> None:
    engine = await start_engine(batching={"max_length": 20})
    outcome = await engine.submit(text_request("a" * 15, max_tokens=100))
    assert outcome.output == TextOutput(text="aaaa", finish_reason="length")
    assert outcome.usage is not None
    assert outcome.usage.total_tokens == 20


async def test_a_prompt_longer_than_the_slot_is_refused_with_both_numbers(start_engine: StartEngine) -> None:
    engine = await start_engine(batching={"max_length": 20})
    with pytest.raises(PrepareError, match=r"31 tokens.* 20 tokens"):
        await engine.submit(text_request("a" * 30))
    with pytest.raises(PrepareError, match=r"100000 characters.* 20 tokens"):
        await engine.submit(text_request("a" * 100_000))


async def test_a_damaged_image_is_refused_and_the_next_one_served(start_engine: StartEngine) -> None:
    engine = await start_engine()
    with pytest.raises(PrepareError, match="not a JPEG, PNG or WebP"):
        await engine.submit(image_request(data=b"GIF89a"))
    assert label(await engine.submit(image_request(3))) == "3"


async def test_an_image_above_the_byte_bound_is_refused(start_engine: StartEngine) -> None:
    engine = await start_engine(images={"max_bytes": 10})
    with pytest.raises(PrepareError, match=r"images.max_bytes = 10"):
        await engine.submit(image_request())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "gpt-9"}, r"'gpt-9' is not served here. Served: fake-images@1 \(image-classification\)"),
        ({"model": "fake-images", "model_version": "2"}, "version '2' of fake-images"),
        ({"model": "fake-text"}, "'fake-text' does not take images. Send prompts to it"),
        ({"task": "object-detection"}, "any model for object-detection of images is not served"),
    ],
)
async def test_an_unknown_model_is_refused_with_what_is_served(
    start_engine: StartEngine, fields: dict[str, Any], message: str
) -> None:
    engine = await start_engine()
    with pytest.raises(ModelNotFoundError, match=message):
        await engine.submit(image_request(**fields))


async def test_a_record_that_makes_its_batch_fail_fails_alone(start_engine: StartEngine) -> None:
    def poisoned(inputs: Array) -> bool:
        return bool((inputs.reshape(len(inputs), -1)[:, 0] == 66).any())

    engine = await start_engine(FakeBackend(fault=poisoned))
    submits = [engine.submit(image_request(66 if i == 13 else i % 10)) for i in range(64)]
    results = await asyncio.gather(*submits, return_exceptions=True)
    assert isinstance(results[13], InferenceError)
    assert results[13].model in engine.models
    assert [label(r) for r in results if isinstance(r, Outcome)] == [str(i % 10) for i in range(64) if i != 13]
    assert not engine.failed.done()


async def test_a_prompt_that_makes_a_step_fail_fails_alone(start_engine: StartEngine) -> None:
    engine = await start_engine(FakeBackend(fault=lambda ids: ids.shape[1] == 1 and bool((ids == ord("!")).any())))
    prompts = [f"number {i}" + "!" * (i == 5) + " and on" for i in range(12)]
    results = await asyncio.gather(*(engine.submit(text_request(p)) for p in prompts), return_exceptions=True)
    assert isinstance(results[5], InferenceError)
    assert [text(r) for r in results if isinstance(r, Outcome)] == [p for p in prompts if "!" not in p]


async def test_a_passed_deadline_is_expired_without_any_work(start_engine: StartEngine) -> None:
    engine = await start_engine()
    outcome = await engine.submit(image_request(data=b"not even an image", expires_at_ms=1))
    assert (outcome.status, outcome.output) == ("expired", None)


async def test_a_deadline_that_passes_during_the_answer_ends_it(start_engine: StartEngine) -> None:
    def slow(_: Array) -> bool:
        time.sleep(0.01)
        return False

    engine = await start_engine(FakeBackend(fault=slow))
    deadline = int(time.time() * 1_000) + 150
    outcome = await engine.submit(text_request("x" * 100, expires_at_ms=deadline))
    assert outcome.status == "expired"
    assert text(await engine.submit(text_request("next"))) == "next"


class Outage:
    """A device that fails for everybody: on command, and for good after ``relapse_after`` runs since a repair."""

    def __init__(self, times: int) -> None:
        self.down = False
        self.left = times
        self.relapse_after: int | None = None
        self.runs = 0

    def __call__(self, _: Array) -> bool:
        self.runs += 1
        return self.down or (self.relapse_after is not None and self.runs > self.relapse_after)


class RepairedBackend(FakeBackend):
    """Opening a session again ends the outage, ``times`` times."""

    def __init__(self, times: int) -> None:
        self.outage = Outage(times)
        self.opened = 0
        super().__init__(fault=self.outage)

    def repair(self) -> None:
        self.opened += 1
        self.outage.down = self.outage.down and self.outage.left == 0
        self.outage.left = max(0, self.outage.left - 1)
        self.outage.runs = 0

    def open_session(self, path: Any) -> Any:
        self.repair()
        return super().open_session(path)

    def open_decoder(self, path: Any, layout: Any) -> Any:
        self.repair()
        return super().open_decoder(path, layout)


@pytest.mark.parametrize("make", [image_request, text_request])
async def test_a_lost_session_is_rebuilt_each_time_and_its_requests_are_served(
    start_engine: StartEngine, make: Any
) -> None:
    backend = RepairedBackend(times=9)
    engine = await start_engine(backend)
    opened = backend.opened
    for times in (1, 2, 3):
        backend.outage.down = True
        outcomes = await asyncio.gather(*(engine.submit(make()) for _ in range(20)))
        assert {outcome.status for outcome in outcomes} == {"ok"}
        assert backend.opened == opened + times
    assert not engine.failed.done()


@pytest.mark.parametrize(("make", "warm_up_runs"), [(image_request, 3), (text_request, 3)])
async def test_a_session_lost_again_before_any_answer_fails_the_engine_and_every_pending_request(
    start_engine: StartEngine, make: Any, warm_up_runs: int
) -> None:
    backend = RepairedBackend(times=9)
    engine = await start_engine(backend)
    backend.outage.down, backend.outage.relapse_after = True, warm_up_runs
    results = await asyncio.gather(*(engine.submit(make()) for _ in range(20)), return_exceptions=True)
    assert {type(result) for result in results} == {EngineError}
    assert "rebuilt once" in str(await engine.failed)
    with pytest.raises(EngineError, match="rebuilt once"):
        await engine.submit(make())


async def test_a_session_that_cannot_be_rebuilt_fails_the_engine(start_engine: StartEngine) -> None:
    backend = RepairedBackend(times=2)  # The two models' first opening uses them up.
    engine = await start_engine(backend)
    backend.outage.down = True
    with pytest.raises(EngineError, match="warm-up"):
        await engine.submit(image_request())


async def test_a_bug_on_the_device_thread_fails_the_engine_instead_of_hanging_it(start_engine: StartEngine) -> None:
    armed = False

    def bug(_: Array) -> bool:
        return bool(1 // (not armed))

    engine = await start_engine(FakeBackend(fault=lambda inputs: armed and bug(inputs)))
    armed = True
    with pytest.raises(EngineError, match="ZeroDivisionError"):
        await engine.submit(image_request())


class Held:
    """A device that stands in its first run after ``holds`` is set until it is released."""

    def __init__(self) -> None:
        self.holds = False
        self.held, self.released = threading.Event(), threading.Event()

    def __call__(self, _: Array) -> bool:
        if self.holds:
            self.held.set()
            assert self.released.wait(PATIENCE_S), "nobody released the device"
        return False


async def test_a_cancelled_request_frees_its_slot(start_engine: StartEngine) -> None:
    device = Held()
    engine = await start_engine(FakeBackend(fault=device), batching={"max_slots": 1})
    device.holds = True
    task = asyncio.create_task(engine.submit(text_request("x" * 100)))
    await until(device.held.is_set, "the request has the slot")
    task.cancel()
    device.released.set()
    assert text(await engine.submit(text_request("next"))) == "next"


async def test_closing_ends_what_is_pending_with_an_engine_error(start_engine: StartEngine) -> None:
    device = Held()
    engine = await start_engine(FakeBackend(fault=device))
    device.holds = True
    pending = [asyncio.create_task(engine.submit(text_request("x" * 100))) for _ in range(20)]
    await until(lambda: device.held.is_set() and len(engine._pending) == 20, "all are pending")
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    device.released.set()
    await closing
    results = await asyncio.gather(*pending, return_exceptions=True)
    assert {type(result) for result in results} == {EngineError}


async def test_the_event_loop_is_not_blocked_while_the_device_works(start_engine: StartEngine) -> None:
    device = Held()
    engine = await start_engine(FakeBackend(fault=device))
    device.holds = True
    task = asyncio.create_task(engine.submit(image_request()))
    await until(device.held.is_set, "the device works")
    assert not task.done()
    device.released.set()  # from the loop, which would not get here if it were blocked
    assert (await task).status == "ok"


async def test_a_model_that_does_not_fit_its_labels_stops_the_start(tmp_path: Any) -> None:
    model = fake_classifier(tmp_path, classes=10)
    engine = Engine(settings(), [model], backend=FakeBackend(classes=11))
    with pytest.raises(ModelError, match="10 labels"):
        await engine.start()
    with pytest.raises(EngineError, match="closed"):
        await engine.submit(image_request())


async def test_an_unexpected_failure_of_preparing_is_the_records_alone(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await start_engine()
    monkeypatch.setattr("pipeline.tasks.pixels.decode_view", lambda *_: 1 // 0)
    with pytest.raises(RecordError, match="ZeroDivisionError"):
        await engine.submit(image_request())
    assert text(await engine.submit(text_request("on"))) == "on"


async def test_a_panic_of_a_library_while_preparing_is_the_records_alone(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Panic(BaseException):
        """As Rust libraries raise it: no Exception."""

    def panic(*_: object) -> None:
        raise Panic("stack overflow")

    engine = await start_engine()
    monkeypatch.setattr("pipeline.tasks.pixels.decode_view", panic)
    with pytest.raises(PrepareError, match="Panic: stack overflow"):
        await engine.submit(image_request())
    assert text(await engine.submit(text_request("on"))) == "on"


async def test_an_output_that_no_answer_can_be_made_of_is_that_records_error_and_the_engine_goes_on(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await start_engine()
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.tasks.classification.top_labels", lambda *_: 1 // 0)
        with pytest.raises(InferenceError, match="ZeroDivisionError"):
            await engine.submit(image_request())
    assert (await engine.submit(image_request())).status == "ok"


async def test_metrics_tell_what_happened(start_engine: StartEngine) -> None:
    engine = await start_engine()
    await engine.submit(image_request())
    await engine.submit(text_request("four"))
    with pytest.raises(PrepareError):
        await engine.submit(image_request(data=b"junk"))
    value = engine.metrics.registry.get_sample_value
    assert value("millrace_results_total", {"model": "fake-images@1", "status": "ok"}) == 1
    assert value("millrace_results_total", {"model": "fake-images@1", "status": "prepare_error"}) == 1
    assert value("millrace_prompt_tokens_total", {"model": "fake-text@1"}) == 5
    assert value("millrace_generated_tokens_total", {"model": "fake-text@1"}) == 5
    assert value("millrace_in_flight_requests", {"model": "fake-text@1"}) == 0
    assert value("millrace_batch_size_count", {"model": "fake-images@1", "kind": "batch"}) == 1
    assert value("millrace_step_seconds_count", {"model": "fake-images@1", "step": "run"}) == 1


@pytest.mark.parametrize("values", [np.nan, np.inf])
async def test_scores_that_are_not_finite_are_an_error_of_that_image(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch, values: float
) -> None:
    engine = await start_engine()
    monkeypatch.setattr(
        "pipeline.runtime.fakes.FakeSession.run",
        lambda self, feeds: {"logits": np.full((len(feeds["pixels"]), 10), values)},
    )
    with pytest.raises(InferenceError, match="finite"):
        await engine.submit(image_request())
