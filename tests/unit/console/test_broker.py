from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

import console.broker
import console.up
from agents.broker import BrokerInfo
from console.main import cli
from console.output import Output
from pipeline.settings import Settings


class NoBroker:
    """What the commands see of an embedded broker: it has to fetch Kafka first, and gets the port it wishes for."""

    def __init__(self, settings: Any, *, port: int, nodes: int = 1) -> None:
        self.info = BrokerInfo(bootstrap_servers=f"127.0.0.1:{port}", pids=(1,), data=Path("data"), nodes=nodes)

    def start(self, progress: Any, *, owned: bool = False) -> BrokerInfo:
        progress(1_000_000, 45_000_000)
        return self.info

    def status(self) -> None:
        return None

    def stop(self) -> None:
        return None


def test_broker_start_wishes_for_the_usual_port_and_prints_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.broker, "EmbeddedBroker", NoBroker)
    assert "at 127.0.0.1:9092" in CliRunner().invoke(cli, ["broker", "start"]).stdout


def test_broker_start_says_once_that_it_fetches_kafka_and_json_stays_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.broker, "EmbeddedBroker", NoBroker)
    done = CliRunner().invoke(cli, ["broker", "start", "--json"])
    assert msgspec.json.decode(done.stdout)["bootstrap_servers"] == "127.0.0.1:9092"
    assert done.stderr.startswith("Fetching Kafka")
    assert done.stderr.rstrip().endswith("(45 MB)")


def test_up_wishes_for_the_usual_port_and_prints_where_kafka_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.up, "EmbeddedBroker", NoBroker)
    with console.up._kafka(Settings(), Output(as_json=False)) as (settings, started):
        assert settings.kafka.bootstrap_servers == "127.0.0.1:9092"
        assert started
    assert "Kafka started at 127.0.0.1:9092" in capsys.readouterr().out
