from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from pipeline.errors import EngineError, ModelError
from pipeline.runtime.gate import DeviceGate
from pipeline.runtime.runner import Runner
from pipeline.runtime.session import SessionError
from pipeline.settings import RuntimeSettings
from pipeline.tasks.task import Answer, Dropped, Job, Result, SessionLost, Settled
from schemas.messages import ClassificationOutput, InferenceRequest, Label
from tests.unit.pipeline.helpers import image_request
from tests.waiting import PATIENCE_S, wait_until

ANSWER = Answer(output=ClassificationOutput(labels=(Label(label="7", score=1.0),)), batch_size=1.0)


class ScriptedTask:
    """One job at a time; each run follows the next line of the script: a result, ``None`` (not done) or a failure.

    Args:
        script: what the runs do, in order.
        opening: what opening raises, if anything.
    """

    def __init__(
        self, script: Sequence[Result | SessionLost | SessionError | None] = (), opening: Exception | None = None
    ) -> None:
        self.script = list(script)
        self.opening = opening
        self.job: Job[Any] | None = None
        self.recovered = 0
        self.runs: list[tuple[float, bool]] = []  # when, and whether those to blame were to be found

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

    def run(self, now_ms: float, *, isolate: bool) -> list[Settled[Any]]:
        self.runs.append((time.perf_counter(), isolate))
        line = self.script.pop(0)
        if isinstance(line, SessionLost | SessionError):
            raise line
        if line is None or self.job is None:
            return []
        job, self.job = self.job, None
        return [Settled(job, line)]

    def recover(self) -> None:
        self.recovered += 1


class Running:
    """A started runner and what it has said: how it opened, each result, each retry and rebuild, its failure."""

    def __init__(self, task: ScriptedTask, **settings: Any) -> None:
        self.said: queue.Queue[Any] = queue.Queue()
        self.retries = self.rebuilds = 0
        self.gate = DeviceGate()
        self.runner: Runner[Any] = Runner(
            "m@1",
            task,
            self.gate,
            settings=RuntimeSettings(**settings),
            opened=self.said.put,
            settled=self._settled,
            failed=self.said.put,
            retrying=self._retrying,
            rebuilt=self._rebuilt,
        )
        self.runner.start()

    def next(self) -> Any:
        return self.said.get(timeout=PATIENCE_S)

    def add(self, ticket: int) -> None:
        self.runner.add(Job(ticket=ticket, request=image_request(), prepared=None, weight=1, ready_at=0.0))

    def close(self) -> None:
        self.runner.close()
        self.runner.join()

    def _settled(self, done: list[Settled[Any]], seconds: float) -> None:
        for settled in done:
            self.said.put(settled.result)

    def _retrying(self) -> None:
        self.retries += 1

    def _rebuilt(self) -> None:
        self.rebuilds += 1


Start = Callable[..., Running]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Running] = []

    def begin(task: ScriptedTask, **settings: Any) -> Running:
        started.append(Running(task, **settings))
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


def test_a_model_error_of_opening_is_told_in_its_words(start: Start) -> None:
    said = start(ScriptedTask(opening=ModelError("the card is wrong"))).next()
    assert isinstance(said, ModelError)
    assert str(said) == "the card is wrong"


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


def test_a_failed_batch_runs_again_after_a_wait_that_doubles_up_to_its_ceiling(start: Start) -> None:
    task = ScriptedTask([SessionError("busy")] * 8 + [ANSWER])
    running = start(task, max_retries=8, retry_backoff_ms=40, max_backoff_ms=100)
    assert running.next() == "cpu"
    running.add(1)
    assert running.next() is ANSWER
    waits = [later - sooner for (sooner, _), (later, _) in itertools.pairwise(task.runs)]
    for wait, at_least in zip(waits, (0.04, 0.08, *[0.1] * 6), strict=True):
        assert wait >= at_least
    assert waits[-1] < 5, "without the ceiling it is 5.12 s"
    assert running.retries == 8


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_only_the_last_try_looks_for_those_to_blame_and_the_next_batch_begins_anew(start: Start, retries: int) -> None:
    failures = [SessionError("busy")] * retries
    task = ScriptedTask([*failures, ANSWER, *failures, ANSWER])
    running = start(task, max_retries=retries, retry_backoff_ms=0)
    assert running.next() == "cpu"
    for ticket in (1, 2):
        running.add(ticket)
        assert running.next() is ANSWER
    assert [isolate for _, isolate in task.runs] == ([False] * retries + [True]) * 2


def test_a_rebuilt_session_gets_all_its_tries(start: Start) -> None:
    task = ScriptedTask([SessionError("busy"), SessionLost("gone"), SessionError("busy"), ANSWER])
    running = start(task, max_retries=1, retry_backoff_ms=0)
    assert running.next() == "cpu"
    running.add(1)
    assert running.next() is ANSWER
    assert [isolate for _, isolate in task.runs] == [False, True, False, True]


def test_the_device_is_free_for_others_while_a_batch_waits_to_run_again(start: Start) -> None:
    task = ScriptedTask([SessionError("busy"), ANSWER])
    running = start(task, retry_backoff_ms=60_000, max_backoff_ms=60_000)
    assert running.next() == "cpu"
    running.add(1)
    wait_until(lambda: running.retries, "the batch waits to run again")
    with running.gate.turn("another"):
        assert len(task.runs) == 1


def test_closing_does_not_wait_for_a_batch_that_waits_to_run_again(start: Start) -> None:
    running = start(ScriptedTask([SessionError("busy")]), retry_backoff_ms=60_000, max_backoff_ms=60_000)
    assert running.next() == "cpu"
    running.add(1)
    wait_until(lambda: running.retries, "the batch waits to run again")
    begun = time.perf_counter()
    running.close()
    assert time.perf_counter() - begun < 30
