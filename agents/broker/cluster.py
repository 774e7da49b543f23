"""The nodes of one folder: which are alive, starting those that are not, ending them all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from agents.broker.java import Java
from agents.broker.layout import (
    Layout,
    NodeFiles,
    choose_ports,
    load_layout,
    new_cluster_id,
    node_files,
    save_layout,
)
from agents.broker.nodes import format_node, log_tail, start_node, write_settings
from agents.broker.processes import end_nodes, find_nodes
from agents.broker.ready import wait_until_ready
from pipeline.errors import BrokerError

__all__ = ["MAX_NODES", "Cluster"]

MAX_NODES = 3
START_TRIES = 3
MIN_FREE_BYTES = 64 * 1024 * 1024  # Kafka maps its indexes into memory, and Java crashes where such a write fails


class Cluster:
    """The cluster in the folder ``data``; the caller holds the folder's lock while it starts or ends nodes.

    ``port`` is where clients should reach the first node, if it is free when all nodes are started.
    """

    def __init__(
        self, data: Path, *, nodes: int, heap_mib: int, extra_properties: Mapping[str, str], port: int | None = None
    ) -> None:
        self.data = data
        self.port = port
        self.nodes = nodes
        self.heap_mib = heap_mib
        self.extra_properties = extra_properties

    @property
    def files(self) -> list[NodeFiles]:
        """The nodes' folders."""
        return node_files(self.data, self.nodes)

    @property
    def properties(self) -> list[Path]:
        """The nodes' settings, by which their processes are known."""
        return [files.properties for files in self.files]

    def layout(self) -> Layout:
        """The folder's layout, or a new one for a new folder."""
        return load_layout(self.data) or Layout(cluster_id=new_cluster_id(), nodes=self.nodes)

    def alive(self) -> dict[Path, int]:
        """The pids of the live nodes, by their settings' files."""
        return find_nodes(self.properties)

    def wait(self, timeout_s: float) -> str | None:
        """Wait until clients are served: ``None``, or why they are not."""
        alive = lambda: len(self.alive()) == self.nodes  # noqa: E731
        return wait_until_ready(self.layout().bootstrap_servers, timeout_s, alive)

    def end(self, grace_s: float, properties: Sequence[Path] | None = None) -> None:
        """End the nodes (all by default), gracefully at first.

        Raises:
            BrokerError: one is still there although it was killed.
        """
        if stuck := end_nodes(self.properties if properties is None else properties, grace_s):
            raise BrokerError(
                f"The broker's processes {stuck} do not end, not even killed: they may hang in a disk that does not "
                f"answer, or belong to another user. Look at them with: ps -o pid,user,stat,args -p {stuck[0]}"
            )

    def start(self, java: Java, jars: Sequence[Path], timeout_s: float) -> None:
        """Start the nodes that are not alive and wait until clients are served.

        A free port may be taken before Kafka binds it; then other ports are tried.

        Raises:
            BrokerError: Kafka does not get ready; what was started is ended again.
            OSError: the folder cannot be written.
        """
        if shutil.disk_usage(self.data).free < MIN_FREE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for attempt in range(1, START_TRIES + 1):
            reason = self._try_start(java, jars, timeout_s, same_ports=attempt == 1)
            if reason is None:
                return
            if attempt == START_TRIES or not self._may_pass():
                raise BrokerError(f"The embedded broker in {self.data} is not ready: {reason}.{self.complaints()}")

    def complaints(self) -> str:
        """What the nodes' logs complain of, as the end of an error's message."""
        tail = log_tail(self.files)
        return f" The end of its logs ({self.data}/node-*/*.log):\n{tail}" if tail else ""

    def _may_pass(self) -> bool:
        """Whether a port was taken, or a node that was killed a moment ago still holds its files."""
        tail = log_tail(self.files)
        return any(word in tail for word in ("Address already in use", "BindException", "Failed to acquire lock"))

    def _try_start(self, java: Java, jars: Sequence[Path], timeout_s: float, *, same_ports: bool) -> str | None:
        dead = [path for path in self.properties if path not in self.alive()]
        try:
            self._place(keep_ports=len(dead) < self.nodes, same_ports=same_ports)
            self._launch(dead, java, jars)
            reason = self.wait(timeout_s)
        except BaseException:
            self.end(0.0, dead)
            raise
        if reason is not None:
            self.end(0.0, dead)
        return reason

    def _place(self, *, keep_ports: bool, same_ports: bool) -> None:
        """Choose the ports, unless a live node uses them, and keep the layout."""
        layout = self.layout()
        if not (keep_ports and layout.ports):
            before = (*layout.ports, *layout.controller_ports) if same_ports else ()
            ports = choose_ports(2 * self.nodes, before, first=self.port if same_ports else None)
            layout = msgspec.structs.replace(layout, ports=ports[: self.nodes], controller_ports=ports[self.nodes :])
        save_layout(self.data, layout)

    def _launch(self, dead: Sequence[Path], java: Java, jars: Sequence[Path]) -> None:
        layout = self.layout()
        for number, files in enumerate(self.files, start=1):
            if files.properties in dead:
                write_settings(files, layout, number, self.extra_properties)
                format_node(files, layout.cluster_id, java, jars)
        for files in self.files:
            if files.properties in dead:
                start_node(files, self.heap_mib, java, jars)
