"""A worker whose engine takes a given time for every record.

``python -m tests.engines SECONDS`` is ``millrace worker`` with its engine replaced; ``inf`` never answers.
"""

from __future__ import annotations

import sys
from unittest.mock import patch

import agents.worker
from agents.app import InferenceApp, create_app
from console.main import main
from pipeline.fake_engine import FakeEngine
from pipeline.settings import Settings

__all__ = ["timed_app"]


def timed_app(settings: Settings, work_s: float) -> InferenceApp:
    """A worker's app; each request takes ``work_s`` seconds."""
    return create_app(settings, FakeEngine(work_s=work_s))  # type: ignore[arg-type]


if __name__ == "__main__":
    seconds = float(sys.argv[1])
    with patch.object(agents.worker, "create_app", lambda settings: timed_app(settings, seconds)):
        sys.argv[1:] = ["worker"]
        sys.exit(main())
