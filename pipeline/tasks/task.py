"""What a runner needs of a task: prepare anywhere, admit and run on the device thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Protocol, TypeVar

from pipeline.errors import MillraceError
from schemas.errors import RecordError
from schemas.messages import FinishReason, InferenceRequest, Output, Usage

__all__ = ["Answer", "Dropped", "Job", "ModelTask", "Result", "SessionLost", "Settled", "StepObserver", "why_dropped"]

P = TypeVar("P")

# Told of each run that succeeds: "batch" or "decode" and its records, "prefill" and its tokens; of "failure" for each
# one that fails; of "token" for each one chosen; of "bisection" when a failed batch is about to be divided.
StepObserver = Callable[[str, int], None]


class SessionLost(MillraceError):  # noqa: N818 - a state, told to the runner alone; people see EngineError
    """The session fails even on input known to be good: it must be rebuilt."""


class Dropped(Enum):
    """Why a job has no answer and no error."""

    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model said; ``batch_size`` as in :class:`schemas.messages.Outcome`."""

    output: Output
    batch_size: float
    usage: Usage | None = None


Result = Answer | RecordError | Dropped


@dataclass(slots=True, kw_only=True, eq=False)
class Job(Generic[P]):
    """One prepared request inside a runner. Times are seconds of ``time.perf_counter``.

    ``stream`` is called on the device thread with each piece of text and, for the last one, why it is the last.
    ``cancelled`` is set by the loop's thread when nobody waits for the result any more.
    """

    ticket: int
    request: InferenceRequest
    prepared: P
    weight: int
    ready_at: float
    stream: Callable[[str, FinishReason | None], None] | None = None
    started_at: float = 0.0
    finished_at: float = 0.0
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Settled(Generic[P]):
    """A job that is done with."""

    job: Job[P]
    result: Result


def why_dropped(job: Job[P], now_ms: float) -> Dropped | None:
    """Why an admitted job is not worth the device's time any more; ``None`` if it is."""
    if job.cancelled:
        return Dropped.CANCELLED
    deadline = job.request.expires_at_ms
    return Dropped.EXPIRED if deadline is not None and deadline <= now_ms else None


class ModelTask(Protocol[P]):
    """One model at its task. Everything but :meth:`prepare` is called on the runner's device thread alone."""

    def open(self) -> str:
        """Load the model and warm it up; the provider it runs on. Raises ModelError."""

    def prepare(self, request: InferenceRequest) -> tuple[P, int]:
        """The model input of ``request`` and its weight; called from several threads. Raises RecordError."""

    def room(self) -> int:
        """How many jobs may be admitted now."""

    def busy(self) -> bool:
        """Whether :meth:`run` has anything to do."""

    def admit(self, jobs: Sequence[Job[P]]) -> None:
        """Take jobs, at most :meth:`room` of them."""

    def run(self, now_ms: float, *, isolate: bool) -> list[Settled[P]]:
        """One session run or one decoding step; what is done with, or expired meanwhile, leaves.

        Args:
            now_ms: the moment, on the clock of the deadlines.
            isolate: whether a batch that fails is divided until those to blame are found.

        Raises:
            SessionError: a batch failed and ``isolate`` is false. Nothing is lost: the next call runs it again.
            SessionLost: the session must be rebuilt; the jobs are kept.
        """

    def recover(self) -> None:
        """Rebuild the session and start the admitted jobs again. Raises ModelError or SessionLost."""
