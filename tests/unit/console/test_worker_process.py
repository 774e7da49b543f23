from __future__ import annotations

import pytest

from console.supervisor import Ready
from console.worker_process import read_ready, worker_environ
from pipeline.settings import KafkaSettings, ModelSettings, RuntimeSettings, Settings, load_settings


def test_a_worker_reads_the_settings_it_was_started_with() -> None:
    settings = Settings(
        kafka=KafkaSettings(bootstrap_servers="b:1", topic_prefix="p.", group_id="g"),
        models=ModelSettings(serve=("x", "y@2")),
    )
    environ = worker_environ(settings, {"KAFKA_BOOTSTRAP_SERVERS": "other:1"}, workers=1)
    assert load_settings(environ=environ) == settings


def test_several_workers_share_the_cores_unless_told_otherwise() -> None:
    settings = Settings(kafka=KafkaSettings(bootstrap_servers="b:1"))
    shared = load_settings(environ=worker_environ(settings, {}, workers=1_000))
    assert shared.runtime.threads == 1
    told = Settings(kafka=settings.kafka, runtime=RuntimeSettings(threads=3))
    assert "MILLRACE_RUNTIME__THREADS" not in worker_environ(told, {}, workers=2)


def test_a_worker_is_ready_when_it_says_so() -> None:
    line = b'{"event": "ready", "models": ["a@1", "b@2"], "metrics_port": 9100}\n'
    assert read_ready(line) == Ready(models=("a@1", "b@2"), metrics_port=9100)
    assert read_ready(b'{"event": "ready", "models": [], "metrics_port": null}') == Ready()


@pytest.mark.parametrize(
    "line", [b"", b"talk\n", b"\xff", b"[1]", b'{"event": "other"}', b'{"event": "ready", "models": 3}']
)
def test_what_else_a_worker_prints_is_passed_over(line: bytes) -> None:
    assert read_ready(line) is None
