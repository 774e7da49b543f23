"""Questions about images with fakes: which rows reach the decoder, and what a fault leaves of the others."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.models.store import ServedModel
from pipeline.runtime.fakes import FakeBackend, fake_reader
from pipeline.runtime.session import SessionError
from pipeline.tasks.make import make_task
from pipeline.tasks.task import Answer, Dropped, Job, ModelTask, Settled, StepObserver
from schemas.errors import InferenceError, PrepareError
from schemas.messages import InferenceRequest, TextOutput
from tests.unit.pipeline.helpers import image_request, settings, text_request

TICKETS = itertools.count()
A, B, BAD = 65, 66, 13


class Device:
    """A device that fails on images of the shade :data:`BAD`, or on everything; it keeps the sizes of image batches."""

    def __init__(self) -> None:
        self.lost = False
        self.looked: list[int] = []
        self.failed = 0

    def __call__(self, inputs: Any) -> bool:
        if inputs.ndim == 4:
            self.looked.append(len(inputs))
            fails = self.lost or bool((inputs[:, 0, 0, 0] == BAD).any())
            self.failed += fails
            return fails
        return self.lost


def opened(
    model: ServedModel,
    device: Device | None = None,
    observe: StepObserver = lambda kind, count: None,
    **batching: int,
) -> ModelTask[Any]:
    task = make_task(model, "int8", settings(batching=batching), FakeBackend(fault=device or Device()), observe)
    assert task.open() == "cpu"
    return task


def asked(shade: int, question: str | None = None, **fields: Any) -> InferenceRequest:
    return image_request(shade, task="image-to-text", prompt=question, **fields)


def admit(task: ModelTask[Any], *requests: InferenceRequest) -> list[Job[Any]]:
    jobs = []
    for request in requests:
        prepared, weight = task.prepare(request)
        jobs.append(Job(ticket=next(TICKETS), request=request, prepared=prepared, weight=weight, ready_at=0.0))
    task.admit(jobs)
    return jobs


def run_to_the_end(task: ModelTask[Any], *, isolate: bool = True) -> dict[str, Any]:
    done: list[Settled[Any]] = []
    while task.busy():
        done += task.run(0.0, isolate=isolate)
    return {settled.job.request.id: settled.result for settled in done}


def said(task: ModelTask[Any], *requests: InferenceRequest) -> list[str]:
    admit(task, *requests)
    results = run_to_the_end(task)
    return [text_of(results[request.id]) for request in requests]


def text_of(result: Any) -> str:
    assert isinstance(result, Answer), result
    assert isinstance(result.output, TextOutput)
    return result.output.text


def test_the_image_stands_before_the_question(tmp_path: Path) -> None:
    assert said(opened(fake_reader(tmp_path)), asked(A, "What is it?")) == ["AAA\nWhat is it?"]


def test_an_image_without_a_question_is_described(tmp_path: Path) -> None:
    assert said(opened(fake_reader(tmp_path)), asked(A)) == ["AAA\nDescribe the image."]


def test_the_prompts_tokens_count_the_images_rows(tmp_path: Path) -> None:
    task = opened(fake_reader(tmp_path))
    (job,) = admit(task, asked(A, "What?", max_tokens=2))
    assert job.weight == len("...\nWhat?.")
    answer = run_to_the_end(task)[job.request.id]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (job.weight, 2)
    assert answer.output == TextOutput(text="AA", finish_reason="length")


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_a_prompt_that_is_cut_inside_the_image_reads_the_same(tmp_path: Path, chunk: int) -> None:
    task = opened(fake_reader(tmp_path), prefill_chunk_tokens=chunk)
    assert said(task, asked(A, "One?"), asked(B, "Two?")) == ["AAA\nOne?", "BBB\nTwo?"]


def test_many_questions_of_other_lengths_get_their_own_image(tmp_path: Path) -> None:
    task = opened(fake_reader(tmp_path), max_slots=8, prefill_chunk_tokens=8)
    requests = [asked(A + i, "?" * (1 + 5 * i % 17)) for i in range(8)]
    alone = [said(task, request)[0] for request in requests]
    assert said(task, *requests) == alone
    assert alone[2].startswith("CCC\n?")


def test_images_that_come_together_are_looked_at_together(tmp_path: Path) -> None:
    device = Device()
    task = opened(fake_reader(tmp_path), device, max_slots=8, max_batch_size=4)
    device.looked.clear()
    requests = [asked(A + i, "?") for i in range(6)]
    admit(task, *requests)
    assert task.room() == 2
    assert len(run_to_the_end(task)) == 6
    assert device.looked == [4, 2]


def test_an_image_that_fails_is_alone_to_blame(tmp_path: Path) -> None:
    device = Device()
    task = opened(fake_reader(tmp_path), device)
    good, bad, other = asked(A, "?"), asked(BAD, "?"), asked(B, "?")
    admit(task, good, bad, other)
    with pytest.raises(SessionError):
        task.run(0.0, isolate=False)
    results = run_to_the_end(task)
    assert isinstance(results[bad.id], InferenceError)
    assert "this image" in str(results[bad.id])
    assert [text_of(results[it.id]) for it in (good, other)] == ["AAA\n?", "BBB\n?"]


def test_each_look_that_fails_is_told_and_so_counts_for_the_watchdog(tmp_path: Path) -> None:
    device, observed = Device(), list[str]()
    task = opened(fake_reader(tmp_path), device, lambda kind, _: observed.append(kind), max_slots=8)
    admit(task, *(asked(BAD if place == 5 else A, "?") for place in range(8)))
    run_to_the_end(task)
    assert observed.count("failure") == device.failed > 1
    assert observed.count("bisection") == 1


def test_what_expired_before_it_was_looked_at_is_not_computed_and_is_told_of_when_the_run_fails(tmp_path: Path) -> None:
    device = Device()
    task = opened(fake_reader(tmp_path), device)
    late, good = asked(A, "?", expires_at_ms=1_000), asked(B, "?")
    admit(task, late, good)
    device.lost = True
    with pytest.raises(SessionError):
        task.run(1_000.0, isolate=False)
    device.lost = False
    device.looked.clear()
    results = run_to_the_end(task)
    assert results[late.id] is Dropped.EXPIRED
    assert text_of(results[good.id]) == "BBB\n?"
    assert device.looked == [1]


def test_a_session_that_is_opened_again_goes_on_with_the_rows_it_has(tmp_path: Path) -> None:
    device = Device()
    task = opened(fake_reader(tmp_path), device, prefill_chunk_tokens=2)
    requests = [asked(A, "One?"), asked(B, "Two?")]
    admit(task, *requests)
    for _ in range(8):
        task.run(0.0, isolate=False)
    device.looked.clear()
    task.recover()
    results = run_to_the_end(task)
    assert [text_of(results[it.id]) for it in requests] == ["AAA\nOne?", "BBB\nTwo?"]
    assert device.looked == [1], "the blank image of the warm-up alone"


def test_a_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PrepareError, match="this model reads images"):
        opened(fake_reader(tmp_path)).prepare(text_request())


def test_a_question_that_fills_the_slot_is_refused_with_its_length(tmp_path: Path) -> None:
    task = opened(fake_reader(tmp_path, max_length=20))
    with pytest.raises(PrepareError, match=r"25 tokens.*holds 20") as refused:
        task.prepare(asked(A, "?" * 20))
    assert refused.value.where == "$.prompt"


def test_a_slot_that_no_image_fits_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"at least 6 tokens, and a slot holds 6. Raise batching.max_length"):
        opened(fake_reader(tmp_path, max_length=6))


def test_a_vision_graph_of_another_width_than_the_cards_stops_the_start(tmp_path: Path) -> None:
    model = fake_reader(tmp_path)
    assert model.card.vision is not None
    card = replace(model.card, vision=replace(model.card.vision, hidden=2))
    with pytest.raises(ModelError, match=r"rows of shape \(1, 3, 1\), but the card says \(1, 3, 2\)"):
        opened(ServedModel(card=card, folder=tmp_path))


def test_rows_are_zero_where_there_is_no_image(tmp_path: Path) -> None:
    from pipeline.runtime.fakes import FakeTokenizer
    from pipeline.tasks.sequence import TextSequence

    task = opened(fake_reader(tmp_path))
    (job,) = admit(task, asked(A, "ab"))
    sequence = TextSequence(job, FakeTokenizer(), {9}, 100, np.array([[7.0], [8.0], [9.0]], np.float32))
    rows = []
    for size in (2, 2, 3):
        rows.append(sequence.image_rows(size))
        sequence.filled += size
    assert [[float(x) for x in row[0, :, 0]] for row in rows if row is not None] == [[7, 8], [9, 0], [0, 0, 0]]
