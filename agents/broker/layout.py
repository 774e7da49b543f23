"""A broker's folder: which nodes it has, on which ports, and the files of each node."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import uuid
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

__all__ = ["KAFKA_PORT", "Layout", "NodeFiles", "choose_ports", "load_layout", "new_cluster_id", "save_layout"]

HOST = "127.0.0.1"
KAFKA_PORT = 9092
"""Where clients look for Kafka."""


class Layout(Struct, frozen=True, kw_only=True):
    """What a broker keeps between starts. One port per node for clients and one for the controllers."""

    cluster_id: str
    nodes: int
    ports: tuple[int, ...] = ()
    controller_ports: tuple[int, ...] = ()

    @property
    def bootstrap_servers(self) -> str:
        """The nodes' addresses for clients, separated by commas."""
        return ",".join(f"{HOST}:{port}" for port in self.ports)


class NodeFiles(Struct, frozen=True):
    """The folder of one node, ``node-1`` and so on."""

    folder: Path

    @property
    def properties(self) -> Path:
        """Kafka's settings. This path is also how the node's process is recognised."""
        return self.folder / "server.properties"

    @property
    def logging(self) -> Path:
        """The settings of Kafka's own log."""
        return self.folder / "log4j2.xml"

    @property
    def server_log(self) -> Path:
        """Kafka's own log."""
        return self.folder / "server.log"

    @property
    def console(self) -> Path:
        """What the Java process writes to its standard output and error."""
        return self.folder / "console.log"

    @property
    def records(self) -> Path:
        """Kafka's data: what the topics hold."""
        return self.folder / "records"

    @property
    def formatted(self) -> Path:
        """An empty file that says that ``records`` was formatted to the end."""
        return self.folder / "formatted"

    @property
    def scratch(self) -> Path:
        """Java's temporary files; emptied at each start."""
        return self.folder / "tmp"

    def prepare(self) -> None:
        """Make the folders, with nothing left over from a node that crashed or a format that was cut short."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        if not self.formatted.exists() and self.records.exists():
            shutil.rmtree(self.records)


def node_files(data: Path, nodes: int) -> list[NodeFiles]:
    """The folders of the nodes in the broker's folder."""
    return [NodeFiles(data / f"node-{number}") for number in range(1, nodes + 1)]


def load_layout(data: Path) -> Layout | None:
    """What the folder says of its broker; ``None`` for a folder that never had one.

    A lost or damaged ``broker.json`` is made up from the nodes' folders, without ports.
    """
    with suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((data / "broker.json").read_bytes(), type=Layout)
    folders = sorted(data.glob("node-*/formatted"))
    if not folders:
        return None
    return Layout(cluster_id=_formatted_id(folders[0].parent) or new_cluster_id(), nodes=len(folders))


def _formatted_id(folder: Path) -> str | None:
    with suppress(OSError, UnicodeDecodeError):
        for line in (NodeFiles(folder).records / "meta.properties").read_text(encoding="utf-8").splitlines():
            if line.startswith("cluster.id="):
                return line.removeprefix("cluster.id=")
    return None


def save_layout(data: Path, layout: Layout) -> None:
    """Keep the layout; a crash in the middle leaves the one before."""
    partial = data / "broker.json.partial"
    with partial.open("wb") as stream:
        stream.write(msgspec.json.format(msgspec.json.encode(layout), indent=2))
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(data / "broker.json")


def new_cluster_id() -> str:
    """A random UUID as Kafka writes it: base64url without padding, and no leading hyphen, which is an option's."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()).startswith("-"):
        pass
    return text


def choose_ports(count: int, preferred: Sequence[int] = (), *, first: int | None = None) -> tuple[int, ...]:
    """``count`` free ports on loopback: the preferred ones when all of them are free, else others.

    The first of them is ``first`` whenever that one is free. A port may be taken between this and its use: the caller
    tries again.
    """
    if first is not None and _is_free(first):
        return (first, *choose_ports(count - 1, preferred[1:]))
    if len(preferred) == count and all(map(_is_free, preferred)):
        return tuple(preferred)
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for candidate in sockets:
            candidate.bind((HOST, 0))
        return tuple(candidate.getsockname()[1] for candidate in sockets)


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Kafka does: TIME_WAIT is no hindrance
        try:
            candidate.bind((HOST, port))
        except OSError:
            return False
        return True
