from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from pipeline.errors import EngineError, ModelError
from pipeline.runtime.gate import DeviceGate
from pipeline.runtime.runner import Runner
from pipeline.tasks.task import Answer, Dropped, Job, Result, SessionLost, Settled
from schemas.messages import ClassificationOutput, InferenceRequest, Label
from tests.unit.pipeline.helpers import image_request

ANSWER = Answer(output=ClassificationOutput(labels=(Label(label="7", score=1.0),)), batch_size=1.0)
WAIT_S = 5.0


class ScriptedTask:
    """One job at a time; each run follows the next line of the script: a result, ``None`` (not done) or a failure.

    Args:
        script: what the runs do, in order.
        opening: what opening raises, if anything.
    """

    def __init__(self, script: Sequence[Result | SessionLost | None] = (), opening: Exception | None = None) -> None:
        self.script = list(script)
        self.opening = opening
        self.job: Job[Any] | None = None
        self.recovered = 0

    def open(self) -> str:
        if self.opening is not None:
            raise self.opening
        return "cpu"

    def prepare(self, request: InferenceRequest) -> tuple[Any, int]:
        return None, 1

    def room(self) -> int:
        return int(self.job is None)

    def busy(self) -> bool:
        return self.job is not None

    def admit(self, jobs: Sequence[Job[Any]]) -> None:
        (self.job,) = jobs

    def run(self, now_ms: float) -> list[Settled[Any]]:
        line = self.script.pop(0)
        if isinstance(line, SessionLost):
            raise line
        if line is None or self.job is None:
            return []
        job, self.job = self.job, None
        return [Settled(job, line)]

    def recover(self) -> None:
        self.recovered += 1


class Running:
    """A started runner and what it has said: how it opened, each result, each rebuild, its failure."""

    def __init__(self, task: ScriptedTask) -> None:
        self.said: queue.Queue[Any] = queue.Queue()
        self.rebuilds = 0
        self.runner: Runner[Any] = Runner(
            "m@1",
            task,
            DeviceGate(),
            opened=self.said.put,
            settled=self._settled,
            failed=self.said.put,
            rebuilt=self._rebuilt,
        )
        self.runner.start()

    def next(self) -> Any:
        return self.said.get(timeout=WAIT_S)

    def add(self, ticket: int) -> None:
        self.runner.add(Job(ticket=ticket, request=image_request(), prepared=None, weight=1, ready_at=0.0))

    def close(self) -> None:
        self.runner.close()
        self.runner.join()

    def _settled(self, done: list[Settled[Any]], seconds: float) -> None:
        for settled in done:
            self.said.put(settled.result)

    def _rebuilt(self) -> None:
        self.rebuilds += 1


Start = Callable[[ScriptedTask], Running]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Running] = []

    def begin(task: ScriptedTask) -> Running:
        started.append(Running(task))
        return started[-1]

    yield begin
    for running in started:
        running.close()


@pytest.mark.parametrize("error", [MemoryError(), KeyError("tensor(bfloat16)"), RuntimeError("CUDA out of memory")])
def test_any_failure_to_open_is_told_with_the_model_the_cause_and_what_to_do(start: Start, error: Exception) -> None:
    said = start(ScriptedTask(opening=error)).next()
    assert isinstance(said, ModelError)
    for words in ("m@1", type(error).__name__, str(error), "batching.max_slots", "batching.max_length"):
        assert words in str(said)


def test_a_model_error_of_opening_is_told_as_it_is(start: Start) -> None:
    error = ModelError("the card is wrong")
    assert start(ScriptedTask(opening=error)).next() is error


def test_a_session_lost_again_before_any_answer_fails_the_runner(start: Start) -> None:
    running = start(ScriptedTask([SessionLost("first"), None, SessionLost("second")]))
    assert running.next() == "cpu"
    running.add(1)
    failure = running.next()
    assert isinstance(failure, EngineError)
    assert "rebuilt once" in str(failure)
    assert running.rebuilds == 1


def test_a_session_lost_again_after_an_answer_is_rebuilt_again(start: Start) -> None:
    task = ScriptedTask([SessionLost("first"), ANSWER, SessionLost("weeks later"), ANSWER])
    running = start(task)
    assert running.next() == "cpu"
    for ticket in (1, 2):
        running.add(ticket)
        assert running.next() is ANSWER
    assert running.rebuilds == task.recovered == 2


def test_what_is_settled_without_an_answer_does_not_count_as_work(start: Start) -> None:
    running = start(ScriptedTask([SessionLost("first"), Dropped.EXPIRED, SessionLost("second")]))
    assert running.next() == "cpu"
    running.add(1)
    assert running.next() is Dropped.EXPIRED
    running.add(2)
    assert "rebuilt once" in str(running.next())
