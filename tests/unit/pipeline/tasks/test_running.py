"""Both tasks without an engine: what a run that failed leaves behind for the next one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.models.store import ServedModel
from pipeline.runtime.fakes import FakeBackend, fake_classifier, fake_generator
from pipeline.runtime.session import SessionError
from pipeline.tasks.make import make_task
from pipeline.tasks.task import Answer, Dropped, Job, ModelTask, Settled
from schemas.messages import InferenceRequest
from tests.unit.pipeline.helpers import image_request, settings, text_request

TICKETS = itertools.count()


class Switch:
    """A device that works or fails, and counts."""

    def __init__(self) -> None:
        self.failing = False
        self.sizes: list[int] = []

    def __call__(self, inputs: Any) -> bool:
        self.sizes.append(len(inputs))
        return self.failing


def classifier(folder: Path, device: Switch) -> ModelTask[Any]:
    return _opened(fake_classifier(folder), device)


def generator(folder: Path, device: Switch) -> ModelTask[Any]:
    return _opened(fake_generator(folder), device)


def _opened(model: ServedModel, device: Switch) -> ModelTask[Any]:
    task = make_task(model, "int8", settings(), FakeBackend(fault=device), lambda kind, count: None)
    task.open()
    return task


def admit(task: ModelTask[Any], *requests: InferenceRequest) -> list[Job[Any]]:
    jobs = []
    for request in requests:
        prepared, weight = task.prepare(request)
        jobs.append(Job(ticket=next(TICKETS), request=request, prepared=prepared, weight=weight, ready_at=0.0))
    task.admit(jobs)
    return jobs


def run_to_the_end(task: ModelTask[Any]) -> list[Settled[Any]]:
    done: list[Settled[Any]] = []
    while task.busy():
        done += task.run(0.0, isolate=False)
    return done


@pytest.mark.parametrize(("make", "request_of"), [(classifier, image_request), (generator, text_request)])
def test_what_expired_or_was_cancelled_before_a_batch_runs_again_is_not_computed(
    tmp_path: Path, make: Callable[[Path, Switch], ModelTask[Any]], request_of: Callable[..., InferenceRequest]
) -> None:
    device = Switch()
    task = make(tmp_path, device)
    late, given_up, good = admit(task, request_of(expires_at_ms=1_000), request_of(), request_of())
    device.failing = True
    with pytest.raises(SessionError):
        task.run(999.0, isolate=False)
    device.failing = False
    given_up.cancelled = True
    device.sizes.clear()
    results = {settled.job: settled.result for settled in task.run(1_000.0, isolate=True)}
    results |= {settled.job: settled.result for settled in run_to_the_end(task)}
    assert results[late] is Dropped.EXPIRED
    assert results[given_up] is Dropped.CANCELLED
    assert isinstance(results[good], Answer)
    assert set(device.sizes) == {1}


def test_a_batch_of_which_nothing_is_left_is_not_run(tmp_path: Path) -> None:
    device = Switch()
    task = classifier(tmp_path, device)
    admit(task, image_request(expires_at_ms=1_000))
    device.sizes.clear()
    assert [settled.result for settled in task.run(1_000.0, isolate=True)] == [Dropped.EXPIRED]
    assert device.sizes == []
    assert not task.busy()


@pytest.mark.parametrize("every", [2, 3, 5])
def test_steps_that_fail_and_run_again_leave_the_answers_and_the_drawn_tokens_as_they_were(
    tmp_path: Path, every: int
) -> None:
    prompts = [text_request(f"prompt {i} and a bit", temperature=0.9, seed=i) for i in range(5)]
    answers = []
    for failing in (False, True):
        device = Switch()
        task = generator(tmp_path, device)
        admit(task, *prompts)
        done: list[Settled[Any]] = []
        for step in itertools.count():
            device.failing = failing and step % every == 0
            try:
                done += task.run(0.0, isolate=False)
            except SessionError:
                assert device.failing
            if not task.busy():
                break
        answers.append({it.job.request.id: it.result.output for it in done if isinstance(it.result, Answer)})
    assert answers[0] == answers[1]
    assert len(answers[0]) == len(prompts)
