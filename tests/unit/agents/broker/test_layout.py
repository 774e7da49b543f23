from __future__ import annotations

import socket
from pathlib import Path

import pytest

from agents.broker.layout import Layout, NodeFiles, choose_ports, load_layout, new_cluster_id, save_layout

LAYOUT = Layout(cluster_id="AbCd", nodes=2, ports=(1111, 2222), controller_ports=(3333, 4444))


def format_by_hand(data: Path, node: int, cluster_id: str) -> NodeFiles:
    files = NodeFiles(data / f"node-{node}")
    files.records.mkdir(parents=True)
    (files.records / "meta.properties").write_text(f"#\n#Tue\ncluster.id={cluster_id}\nnode.id={node}\n")
    files.formatted.touch()
    return files


def test_a_saved_layout_is_loaded_again(tmp_path: Path) -> None:
    save_layout(tmp_path, LAYOUT)
    assert load_layout(tmp_path) == LAYOUT
    assert LAYOUT.bootstrap_servers == "127.0.0.1:1111,127.0.0.1:2222"


def test_a_new_folder_has_no_layout(tmp_path: Path) -> None:
    assert load_layout(tmp_path) is None
    assert load_layout(tmp_path / "absent") is None


@pytest.mark.parametrize("content", [None, "", '{"cluster_id": "x"', '{"cluster_id": 3, "nodes": 1}'])
def test_a_lost_or_damaged_layout_is_made_up_from_the_nodes(tmp_path: Path, content: str | None) -> None:
    format_by_hand(tmp_path, 1, "the-old-id")
    format_by_hand(tmp_path, 2, "the-old-id")
    if content is not None:
        (tmp_path / "broker.json").write_text(content)
    assert load_layout(tmp_path) == Layout(cluster_id="the-old-id", nodes=2)


def test_a_format_that_was_cut_short_is_begun_again(tmp_path: Path) -> None:
    files = format_by_hand(tmp_path, 1, "id")
    files.formatted.unlink()
    files.prepare()
    assert not files.records.exists()


def test_records_of_a_formatted_node_are_left_alone(tmp_path: Path) -> None:
    files = format_by_hand(tmp_path, 1, "id")
    files.prepare()
    assert (files.records / "meta.properties").exists()


def test_ports_are_the_preferred_ones_while_all_are_free() -> None:
    ports = choose_ports(2)
    assert choose_ports(2, ports) == ports


def test_ports_are_others_when_one_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wanted = (taken.getsockname()[1], choose_ports(1)[0])
        assert taken.getsockname()[1] not in choose_ports(2, wanted)


def test_the_first_port_is_the_one_wished_for_when_it_is_free_and_the_others_stay() -> None:
    wish, *before = choose_ports(5)
    assert choose_ports(4, before, first=wish) == (wish, *before[1:])
    assert choose_ports(4, first=wish)[0] == wish


def test_a_wish_that_is_taken_leaves_the_ports_of_before() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        before = choose_ports(2)
        assert choose_ports(2, before, first=taken.getsockname()[1]) == before


def test_ports_differ() -> None:
    assert len(set(choose_ports(6))) == 6


def test_cluster_ids_are_no_option_of_a_command() -> None:
    ids = [new_cluster_id() for _ in range(500)]
    assert len(set(ids)) == 500
    assert all(len(text) == 22 and not text.startswith("-") for text in ids)
