"""A worker process whose device blocks its thread for ever at the first request: ``millrace worker`` on a fake backend.

``faust -A tests.blocked_engine worker`` runs the same under Faust's own command line.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import agents.worker
from agents.app import InferenceApp, create_app
from console.main import main
from pipeline.engine import Engine
from pipeline.runtime.fakes import FakeBackend, fake_generator
from pipeline.settings import Settings, load_settings


def block(_: Any) -> bool:
    """Never return, as a device that hangs does not."""
    while True:
        time.sleep(3_600)


def blocked_app(settings: Settings, *, crash_on_failure: bool = False) -> InferenceApp:
    """A worker's app whose warm-up works and whose first request never ends."""
    hangs = False

    def fault(ids: Any) -> bool:
        return block(ids) if hangs else False

    engine = Engine(settings, [fake_generator(Path(tempfile.mkdtemp()))], backend=FakeBackend(fault=fault))
    submit = engine.submit

    async def hanging_submit(*args: Any, **kwargs: Any) -> Any:
        nonlocal hangs
        hangs = True
        return await submit(*args, **kwargs)

    engine.submit = hanging_submit  # type: ignore[method-assign]
    return create_app(settings, engine, crash_on_failure=crash_on_failure)


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(name)
    app = blocked_app(load_settings(), crash_on_failure=True)
    globals()["app"] = app
    return app


if __name__ == "__main__":
    with patch.object(agents.worker, "create_app", blocked_app):
        sys.argv[1:] = ["worker"]
        sys.exit(main())
