from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine import Engine
from pipeline.models.store import ServedModel
from pipeline.runtime.fakes import FakeBackend, fake_classifier, fake_generator
from tests.unit.pipeline.helpers import StartEngine, settings


@pytest.fixture
async def start_engine(tmp_path: Path) -> AsyncIterator[StartEngine]:
    """Starts an engine on fakes, of a classifier and a generator by default; it is closed at the end of the test."""
    engines: list[Engine] = []

    async def start(
        backend: FakeBackend | None = None,
        makers: Sequence[Callable[[Path], ServedModel]] = (fake_classifier, fake_generator),
        **sections: dict[str, Any],
    ) -> Engine:
        models = [make(tmp_path) for make in makers]
        engine = Engine(settings(**sections), models, backend=backend or FakeBackend())
        engines.append(engine)
        await engine.start()
        return engine

    yield start
    for engine in engines:
        await engine.close()
