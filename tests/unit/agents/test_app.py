"""The app without Kafka: what is wrong with its settings is told before it looks for one."""

from __future__ import annotations

import pytest

from agents.app import InferenceApp
from pipeline.errors import SettingsError
from pipeline.settings import KafkaSettings, Settings, WorkerSettings
from tests.engines import timed_app


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
@pytest.mark.parametrize(
    "client", [{"securty.protocol": "SSL"}, {"security.protocol": "SSLL"}, {"queue.buffering.max.kbytes": "-5"}]
)
async def test_what_librdkafka_does_not_know_is_told_as_a_setting_and_the_app_stops(
    client: dict[str, str], delivery: str
) -> None:
    app: InferenceApp = timed_app(
        Settings(
            kafka=KafkaSettings(bootstrap_servers="127.0.0.1:1", client=client),
            worker=WorkerSettings(delivery=delivery),  # type: ignore[arg-type]
        ),
        0.0,
    )
    with pytest.raises(SettingsError, match=r"kafka\.client") as failure:
        await app.start()
    assert next(iter(client)) in str(failure.value)
    await app.stop()
