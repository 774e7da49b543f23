"""In which pieces texts go through a decoder: no token of a prompt alone, each of an answer, also read again."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from pipeline.runtime.fakes import FakeBackend, fake_generator
from pipeline.tasks.make import make_task
from pipeline.tasks.task import Answer, Job, ModelTask
from schemas.messages import InferenceRequest, TextOutput
from tests.unit.pipeline.helpers import settings, text_request

TICKETS = itertools.count()


class Device:
    """Keeps the token ids of each run."""

    def __init__(self) -> None:
        self.runs: list[list[list[int]]] = []

    def __call__(self, ids: Any) -> bool:
        self.runs.append(ids.tolist())
        return False

    def pieces(self) -> list[str]:
        """What was read by runs of one text, without the end of the prompt."""
        return ["".join(chr(token) for token in run[0] if token < 256) for run in self.runs if len(run) == 1]


def opened(folder: Path, device: Device, **batching: int) -> ModelTask[Any]:
    backend = FakeBackend(fault=device)
    task = make_task(fake_generator(folder), "int8", settings(batching=batching), backend, lambda kind, count: None)
    task.open()
    device.runs.clear()
    return task


def admit(task: ModelTask[Any], *requests: InferenceRequest) -> None:
    for request in requests:
        prepared, weight = task.prepare(request)
        job = Job(ticket=next(TICKETS), request=request, prepared=prepared, weight=weight, ready_at=0.0)
        task.admit([job])


def run_to_the_end(task: ModelTask[Any]) -> dict[str, str]:
    results: dict[str, str] = {}
    while task.busy():
        for settled in task.run(0.0, isolate=False):
            assert isinstance(settled.result, Answer)
            assert isinstance(settled.result.output, TextOutput)
            results[settled.job.request.id] = settled.result.output.text
    return results


@pytest.mark.parametrize(
    ("chunk", "pieces"),
    [
        (1, ["a", "ab", "bc", "cd", "d"]),
        (2, ["ab", "cd", "d"]),
        (3, ["abc", "d"]),
        (4, ["abcd", "d"]),
        (5, ["abcd"]),
    ],
)
def test_the_last_token_of_a_prompt_is_read_with_the_one_before_it(
    tmp_path: Path, chunk: int, pieces: list[str]
) -> None:
    device = Device()
    task = opened(tmp_path, device, prefill_chunk_tokens=chunk)
    request = text_request("abcd")
    admit(task, request)
    assert run_to_the_end(task) == {request.id: "abcd"}
    read, answered = device.pieces()[: len(pieces)], device.pieces()[len(pieces) :]
    assert read == pieces
    assert answered == ["a", "b", "c", "d"]


def test_a_prompt_of_one_token_is_read_alone(tmp_path: Path) -> None:
    device = Device()
    task = opened(tmp_path, device)
    admit(task, text_request(""))
    task.run(0.0, isolate=False)
    assert [len(run[0]) for run in device.runs][:1] == [1]


@pytest.mark.parametrize("lost_after", [1, 2, 3, 5])
def test_an_answer_is_decoded_again_token_by_token_when_the_session_was_lost(tmp_path: Path, lost_after: int) -> None:
    device = Device()
    task = opened(tmp_path, device, max_slots=4, prefill_chunk_tokens=8)
    requests = [text_request("abcdef"), text_request("ghijkl")]
    admit(task, *requests)
    for _ in range(lost_after):
        task.run(0.0, isolate=False)
    task.recover()
    device.runs.clear()
    results = run_to_the_end(task)
    assert results == {requests[0].id: "abcdef", requests[1].id: "ghijkl"}
    assert [run[0] for run in device.runs if len(run[0]) > 1] == [[*b"abcdef", 256], [*b"ghijkl", 256]]
    first = [run[0][0] for run in device.runs if len(run[0]) == 1]
    assert first[:6] == [*b"abcdef"]
