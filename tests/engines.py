"""An engine that takes a given time for every record, and a worker process that serves with it.

``python -m tests.engines SECONDS`` is ``millrace worker`` with its engine replaced; ``inf`` never answers.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from unittest.mock import patch

import agents.worker
from agents.app import InferenceApp, create_app
from console.main import main
from pipeline.errors import EngineError
from pipeline.metrics import Metrics
from pipeline.settings import Settings
from schemas.messages import InferenceRequest, ModelInfo, Outcome, TextOutput, TokenPiece, outcome_id

__all__ = ["TimedEngine", "timed_app"]

MODEL = ModelInfo(name="none", version="1", digest="0" * 64, precision="int8", provider="cpu")


class TimedEngine:
    """Answers each request after ``work_s`` seconds, however many there are."""

    models = (MODEL,)
    runs = 0

    def __init__(self, work_s: float) -> None:
        self.metrics = Metrics()
        self.failed: asyncio.Future[EngineError] = asyncio.get_running_loop().create_future()
        self._work_s = work_s

    async def start(self) -> None:
        """Nothing to load."""

    async def close(self) -> bool:
        """Nothing to let go of."""
        return True

    async def submit(self, request: InferenceRequest, *, emit: Callable[[TokenPiece], None] | None = None) -> Outcome:
        """An empty text."""
        if self._work_s:
            await asyncio.sleep(self._work_s)
        return Outcome(
            id=outcome_id(request.source, MODEL.digest),
            status="ok",
            request_id=request.id,
            source=request.source,
            created_at_ms=time.time_ns() // 1_000_000,
            model=MODEL,
            output=TextOutput(text="", finish_reason="stop"),
        )


def timed_app(settings: Settings, work_s: float) -> InferenceApp:
    """A worker's app on a :class:`TimedEngine`."""
    return create_app(settings, TimedEngine(work_s))  # type: ignore[arg-type]


if __name__ == "__main__":
    seconds = float(sys.argv[1])
    with patch.object(agents.worker, "create_app", lambda settings: timed_app(settings, seconds)):
        sys.argv[1:] = ["worker"]
        sys.exit(main())
