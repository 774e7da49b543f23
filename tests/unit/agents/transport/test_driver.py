"""What the transport cannot do is refused at the start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from faust.exceptions import ImproperlyConfigured

from agents.app import InferenceApp
from pipeline.settings import KafkaSettings, Settings
from tests.engines import timed_app


@pytest.fixture
async def app() -> AsyncIterator[InferenceApp]:
    made = timed_app(Settings(kafka=KafkaSettings(bootstrap_servers="127.0.0.1:1")), 0.0)
    yield made
    await made.stop()


async def test_an_app_with_a_table_does_not_start(app: InferenceApp) -> None:
    app.Table("counts")
    with pytest.raises(ImproperlyConfigured, match=r"no tables.*counts"):
        await app.start()


async def test_an_app_with_an_agent_on_a_topic_that_acknowledges_does_not_start(app: InferenceApp) -> None:
    async def count(stream: Any) -> None:
        async for _ in stream:
            pass

    app.agent(app.topic("acknowledged"))(count)
    with pytest.raises(ImproperlyConfigured, match=r"topic acknowledged acknowledges.*acks=False"):
        await app.start()
