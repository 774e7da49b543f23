from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def trials_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process for each trial takes a second; that it is one is tested by itself and by the command."""

    def answer(_what: str, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    for module in ("pipeline.factory.trial", "pipeline.factory.foreign.independence"):
        monkeypatch.setattr(f"{module}.answer", answer)
