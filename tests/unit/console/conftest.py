from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from PIL import Image

from schemas.messages import (
    ClassificationOutput,
    Label,
    ModelInfo,
    Outcome,
    OutcomeError,
    Output,
    Source,
    TextOutput,
)

MakeOutcome = Callable[..., Outcome]
MODEL = ModelInfo(name="m", version="1", digest="d" * 64, precision="int8", provider="CPUExecutionProvider")


@pytest.fixture
def png() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def make_outcome() -> MakeOutcome:
    """An ok outcome with a text, labels or another output; an error outcome with a message."""

    def make(
        *,
        source: Source | None = None,
        text: str | None = None,
        label: str | None = None,
        error: str | None = None,
        key: str | None = None,
        batch_size: float = 4.0,
        output: Output | None = None,
    ) -> Outcome:
        if text is not None:
            output = TextOutput(text=text, finish_reason="stop")
        if label is not None:
            output = ClassificationOutput(labels=(Label(label=label, score=0.625), Label(label="other", score=0.25)))
        return Outcome(
            id="i",
            status="error" if error else "ok",
            request_id="r",
            source=source or Source(topic="t", partition=1, offset=7),
            created_at_ms=1,
            key=key,
            model=None if error else MODEL,
            output=output,
            error=OutcomeError(code="decode_error", message=error, where="value", stage="admit") if error else None,
            batch_size=batch_size,
        )

    return make
