"""The steps of one request around its run: prepared input before it, pieces during it, the outcome after it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.tasks.task import Answer, Job, ModelTask
from schemas.errors import PrepareError, RecordError
from schemas.messages import (
    FinishReason,
    InferenceRequest,
    ModelInfo,
    Outcome,
    Timings,
    TokenPiece,
    outcome_id,
)
from schemas.outcomes import key_text

__all__ = ["Prepared", "make_outcome", "prepare_request", "stream_pieces"]

LOG = logging.getLogger(__name__)
Emit = Callable[[TokenPiece], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Model input with its weight, and when making it began and ended, in seconds of ``time.perf_counter``."""

    value: Any
    weight: int
    began_at: float
    ended_at: float


def prepare_request(task: ModelTask[Any], request: InferenceRequest) -> Prepared:
    """Prepare ``request``; blocks, for a thread pool.

    Raises:
        RecordError: the request cannot be served. Whatever else goes wrong here is that record's alone, too.
    """
    began = time.perf_counter()
    try:
        value, weight = task.prepare(request)
    except (RecordError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the tokenizers library is no Exception, and the record would be lost
        LOG.exception("request %s: preparing it failed unexpectedly", request.id)
        raise PrepareError(f"preparing the input failed: {type(error).__name__}: {error}") from error
    return Prepared(value=value, weight=weight, began_at=began, ended_at=time.perf_counter())


def stream_pieces(
    request: InferenceRequest, digest: str, emit: Emit | None, call_soon: Callable[..., None]
) -> Callable[[str, FinishReason | None], None] | None:
    """Number the pieces of a streamed answer and hand them to ``emit`` on the event loop; ``None`` for no stream."""
    if emit is None or not request.input.stream:
        return None
    name, index = outcome_id(request.source, digest), 0

    def stream(text: str, finish_reason: FinishReason | None) -> None:
        nonlocal index
        piece = TokenPiece(
            outcome_id=name,
            request_id=request.id,
            source=request.source,
            index=index,
            text=text,
            finish_reason=finish_reason,
        )
        index += 1
        call_soon(emit, piece)

    return stream


def make_outcome(
    job: Job[Any], answer: Answer, prepared: Prepared, submitted_at: float, model: ModelInfo, now_ms: int
) -> Outcome:
    """The ``ok`` outcome of a settled job. ``submitted_at`` is seconds of ``time.perf_counter``."""
    request = job.request
    waiting = (prepared.began_at - submitted_at) + (job.started_at - job.ready_at)
    timings = Timings(
        queue_ms=_ms(waiting),
        prepare_ms=_ms(prepared.ended_at - prepared.began_at),
        run_ms=_ms(job.finished_at - job.started_at),
    )
    return Outcome(
        id=outcome_id(request.source, model.digest),
        status="ok",
        request_id=request.id,
        source=request.source,
        created_at_ms=now_ms,
        key=key_text(request.key),
        model=model,
        output=answer.output,
        usage=answer.usage,
        timings=timings,
        batch_size=answer.batch_size,
        traceparent=request.traceparent,
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1_000, 3)
