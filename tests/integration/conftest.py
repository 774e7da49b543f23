from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.settings import BrokerSettings


@pytest.fixture
def broker_settings(tmp_path: Path) -> BrokerSettings:
    """Settings of a broker of one test's own."""
    return BrokerSettings(data=str(tmp_path / "broker"), heap_mib=256, start_timeout_s=180)
