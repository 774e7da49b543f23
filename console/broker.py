"""`millrace broker start|stop|status`: the embedded Kafka by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from agents.broker import KAFKA_PORT, BrokerInfo, EmbeddedBroker
from agents.broker.jars import KAFKA_VERSION
from console.lazy import NamingGroup
from console.output import Output, json_option
from console.progress import byte_progress
from pipeline.settings import BrokerSettings, load_settings

__all__ = ["broker"]

data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="The broker's folder. Otherwise broker.data of the settings, then the user's cache.",
)


@click.group(cls=NamingGroup)
def broker() -> None:
    """Start, stop and inspect the embedded Kafka.

    It is the real Apache Kafka, on loopback, in a folder of its own. It keeps running when this command ends.
    """


@broker.command()
@click.option(
    "--nodes", type=click.Choice(["1", "3"]), default="1", show_default=True, help="3 is a replicated cluster."
)
@data_option
@json_option
def start(*, nodes: str, data: Path | None, as_json: bool) -> None:
    """Start the broker, or find it running; returns when clients can produce and consume.

    It is reached at 127.0.0.1:9092, or at another port, which is printed, when that one is taken.
    """
    output, embedded = Output(as_json=as_json), EmbeddedBroker(_settings(data), nodes=int(nodes), port=KAFKA_PORT)
    with byte_progress(output, f"Fetching Kafka {KAFKA_VERSION}, once") as progress:
        info = embedded.start(progress)
    _show(output, info)


@broker.command()
@data_option
@json_option
def stop(*, data: Path | None, as_json: bool) -> None:
    """Stop the broker. Its topics and records stay for the next start."""
    output, settings = Output(as_json=as_json), _settings(data)
    stopped = EmbeddedBroker(settings).stop()
    if as_json:
        output.document({"stopped": stopped, "data": str(settings.data_path)})
    else:
        output.say("Kafka is stopped." if stopped else "No Kafka was running.")


@broker.command()
@data_option
@json_option
def status(*, data: Path | None, as_json: bool) -> None:
    """Say whether the broker runs and where."""
    _show(Output(as_json=as_json), EmbeddedBroker(_settings(data)).status())


def _settings(data: Path | None) -> BrokerSettings:
    settings = load_settings().broker
    return msgspec.structs.replace(settings, data=str(data)) if data else settings


def _show(output: Output, info: BrokerInfo | None) -> None:
    if output.as_json:
        output.document(_document(info))
    elif info is None:
        output.say("No Kafka runs. Start it with `millrace broker start`.")
    else:
        output.say(f"Kafka {KAFKA_VERSION} at {info.bootstrap_servers}")
        output.say(f"{len(info.pids)} of {info.nodes} node(s) alive, pids {', '.join(map(str, info.pids))}")
        output.say(f"data and logs in {info.data}")


def _document(info: BrokerInfo | None) -> dict[str, Any]:
    if info is None:
        return {"running": False}
    return {
        "running": True,
        "bootstrap_servers": info.bootstrap_servers,
        "pids": info.pids,
        "nodes": info.nodes,
        "data": str(info.data),
        "kafka_version": KAFKA_VERSION,
    }
