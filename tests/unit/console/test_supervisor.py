from __future__ import annotations

import pytest

from console.supervisor import Ready, Supervisor, backoff_s
from pipeline.errors import EngineError


class FakeWorker:
    def __init__(self, number: int) -> None:
        self.pid = 100 + number
        self.code: int | None = None
        self.said: Ready | None = None
        self.stubborn = False

    def ready(self) -> Ready | None:
        return self.said

    def exit_code(self) -> int | None:
        return self.code

    def stop(self) -> None:
        if not self.stubborn:
            self.code = 0

    def kill(self) -> None:
        if self.code is None:
            self.code = -9

    def last_words(self) -> str:
        return "model x is missing"


class Stage:
    """A supervisor with fake workers and a clock that is set by hand."""

    def __init__(self, count: int = 1) -> None:
        self.now = 0.0
        self.workers: list[FakeWorker] = []
        self.said: list[str] = []
        self.supervisor = Supervisor(count, self._launch, say=self.said.append, clock=lambda: self.now)
        self.supervisor.start()

    def _launch(self, number: int) -> FakeWorker:
        self.workers.append(FakeWorker(number))
        return self.workers[-1]

    def at(self, now: float) -> bool:
        self.now = now
        return self.supervisor.tick()


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_backoff_doubles_up_to_half_a_minute() -> None:
    assert [backoff_s(deaths) for deaths in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]


def test_a_ready_worker_is_announced_once(stage: Stage) -> None:
    stage.workers[0].said = Ready(models=("m@1",), metrics_port=None)
    assert (stage.at(1), stage.at(2)) == (True, False)
    assert stage.said == ["worker 1 (pid 101) serves m@1"]


def test_a_worker_that_serves_another_version_by_now_says_so_again(stage: Stage) -> None:
    for version in ("m@1", "m@2"):
        stage.workers[0].said = Ready(models=(version,), metrics_port=None)
        assert stage.at(1)
    assert stage.said == ["worker 1 (pid 101) serves m@1", "worker 1 (pid 101) serves m@2"]


def test_a_dead_worker_is_started_again_after_its_backoff_and_it_says_so(stage: Stage) -> None:
    stage.workers[0].code = -9
    assert stage.at(10)
    assert stage.said == ["worker 1 (pid 101) was ended by signal 9; starting it again in 1 s"]
    assert not stage.at(10.9)
    assert stage.at(11)
    assert len(stage.workers) == 2
    assert stage.supervisor.places[0].restarts == 1


def test_a_worker_that_keeps_dying_waits_longer_each_time(stage: Stage) -> None:
    for died_at, again_at in ((0, 1), (1, 3), (3, 7)):
        stage.workers[-1].code = 1
        stage.at(died_at)
        assert not stage.at(again_at - 0.1)
        assert stage.at(again_at)


def test_a_worker_that_was_steady_starts_again_at_once(stage: Stage) -> None:
    stage.workers[0].code = 1
    stage.at(61)
    stage.at(61)
    assert len(stage.workers) == 2


def test_only_the_dead_one_is_started_again() -> None:
    stage = Stage(count=2)
    stage.workers[1].code = 1
    stage.at(0)
    stage.at(1)
    assert [worker.pid for worker in stage.workers] == [101, 102, 102]


def test_a_death_before_it_is_ready_fails_with_its_last_words(stage: Stage) -> None:
    stage.workers[0].code = 1
    with pytest.raises(EngineError, match=r"worker 1 ended with exit status 1\. It said:\nmodel x is missing"):
        stage.supervisor.wait_ready(5)


def test_waiting_for_ready_ends(stage: Stage) -> None:
    with pytest.raises(EngineError, match="not ready after 0 s"):
        stage.supervisor.wait_ready(0)


def test_stopping_asks_first_and_kills_what_does_not_listen() -> None:
    stage = Stage(count=2)
    stage.workers[1].stubborn = True
    assert not stage.supervisor.stop(0.1)
    assert [worker.code for worker in stage.workers] == [0, -9]
