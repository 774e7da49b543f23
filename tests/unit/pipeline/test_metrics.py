from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import pytest

from pipeline.errors import SettingsError
from pipeline.metrics import Metrics


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    metrics = Metrics()
    yield metrics
    metrics.close()


def test_metrics_are_served_on_a_free_port(metrics: Metrics) -> None:
    port = metrics.serve("127.0.0.1", 0)
    metrics.records.labels("prompts").inc(3)
    metrics.lag.labels("prompts", "0").set(7)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
        page = response.read().decode()
    assert 'millrace_records_total{topic="prompts"} 3.0' in page
    assert 'millrace_lag_records{partition="0",topic="prompts"} 7.0' in page


def test_a_taken_port_is_refused_with_the_way_out(metrics: Metrics) -> None:
    port = metrics.serve("127.0.0.1", 0)
    with pytest.raises(SettingsError, match=rf"127.0.0.1:{port}.*worker.metrics_port to 0"):
        Metrics().serve("127.0.0.1", port)


def test_serving_twice_is_refused(metrics: Metrics) -> None:
    metrics.serve("127.0.0.1", 0)
    with pytest.raises(SettingsError, match="already served"):
        metrics.serve("127.0.0.1", 0)


def test_closing_frees_the_port(metrics: Metrics) -> None:
    port = metrics.serve("127.0.0.1", 0)
    metrics.close()
    assert metrics.serve("127.0.0.1", port) == port


def test_two_workers_in_one_process_do_not_share_counts(metrics: Metrics) -> None:
    metrics.records.labels("prompts").inc()
    assert Metrics().registry.get_sample_value("millrace_records_total", {"topic": "prompts"}) is None
