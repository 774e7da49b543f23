from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from agents.broker import RESERVED_PROPERTIES, EmbeddedBroker
from agents.broker.layout import Layout, NodeFiles
from agents.broker.properties import log4j2, server_properties, write_properties
from pipeline.errors import BrokerError
from pipeline.settings import BrokerSettings

ONE = Layout(cluster_id="id", nodes=1, ports=(1001,), controller_ports=(2001,))
THREE = Layout(cluster_id="id", nodes=3, ports=(1001, 1002, 1003), controller_ports=(2001, 2002, 2003))
FILES = NodeFiles(Path("/data/node-1"))


def test_only_loopback_is_listened_on() -> None:
    properties = server_properties(ONE, 1, FILES, {})
    assert properties["listeners"] == "PLAINTEXT://127.0.0.1:1001,CONTROLLER://127.0.0.1:2001"
    assert properties["advertised.listeners"] == "PLAINTEXT://127.0.0.1:1001"


def test_one_node_keeps_one_copy_of_everything() -> None:
    properties = server_properties(ONE, 1, FILES, {})
    copies = {key: value for key, value in properties.items() if key.endswith(("replication.factor", "isr"))}
    assert set(copies.values()) == {"1"}


def test_three_nodes_vote_and_keep_three_copies() -> None:
    properties = server_properties(THREE, 2, FILES, {})
    assert properties["node.id"] == "2"
    assert properties["controller.quorum.voters"] == "1@127.0.0.1:2001,2@127.0.0.1:2002,3@127.0.0.1:2003"
    assert properties["offsets.topic.replication.factor"] == "3"
    assert properties["transaction.state.log.min.isr"] == "2"


def test_extra_properties_win() -> None:
    assert server_properties(ONE, 1, FILES, {"num.io.threads": "9"})["num.io.threads"] == "9"


@pytest.mark.parametrize("name", sorted(RESERVED_PROPERTIES))
def test_what_the_broker_sets_itself_is_refused_before_anything_starts(tmp_path: Path, name: str) -> None:
    with pytest.raises(BrokerError, match=name):
        EmbeddedBroker(BrokerSettings(data=str(tmp_path)), extra_properties={name: "x"})


@pytest.mark.parametrize("nodes", [0, -1, 4])
def test_other_numbers_of_nodes_are_refused(tmp_path: Path, nodes: int) -> None:
    with pytest.raises(BrokerError, match=f"nodes={nodes}"):
        EmbeddedBroker(BrokerSettings(data=str(tmp_path)), nodes=nodes)


def test_paths_with_odd_characters_survive_the_properties_file() -> None:
    text = write_properties({"log.dirs": "/data/ a=b:c#\\d/数据"})
    assert text == "log.dirs=/data/\\u0020a\\u003db\\u003ac\\u0023\\u005cd/\\u6570\\u636e\n"


def test_paths_with_odd_characters_survive_the_log_settings() -> None:
    text = log4j2(Path('/data/<a> & "b" $c/server.log'))
    root = ElementTree.fromstring(text)  # noqa: S314
    appender = root.find("Appenders/RollingFile")
    assert appender is not None
    assert appender.get("fileName") == '/data/<a> & "b" $$c/server.log'
