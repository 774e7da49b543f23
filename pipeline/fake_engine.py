"""A fake of the engine: for tests and benchmarks of what stands around it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from pipeline.errors import EngineError
from pipeline.metrics import Metrics
from schemas.messages import InferenceRequest, ModelInfo, Outcome, TextOutput, TokenPiece, outcome_id

__all__ = ["FakeEngine"]

MODEL = ModelInfo(name="none", version="1", digest="0" * 64, precision="int8", provider="cpu")


class FakeEngine:
    """Answers every request with the same text. On one event loop.

    Args:
        text: the answer.
        work_s: how long each takes, however many there are.
    """

    models = (MODEL,)
    runs = 0

    def __init__(self, text: str = "", *, work_s: float = 0.0) -> None:
        self.metrics = Metrics()
        self.changed = asyncio.Event()
        self.failed: asyncio.Future[EngineError] = asyncio.get_running_loop().create_future()
        self._text = text
        self._work_s = work_s

    async def start(self) -> None:
        """Nothing to load."""

    async def close(self) -> bool:
        """Nothing to let go of: True."""
        return True

    async def submit(self, request: InferenceRequest, *, emit: Callable[[TokenPiece], None] | None = None) -> Outcome:  # noqa: ARG002
        """The text."""
        if self._work_s:
            await asyncio.sleep(self._work_s)
        return Outcome(
            id=outcome_id(request.source, MODEL.digest),
            status="ok",
            request_id=request.id,
            source=request.source,
            created_at_ms=time.time_ns() // 1_000_000,
            model=MODEL,
            output=TextOutput(text=self._text, finish_reason="stop"),
        )
