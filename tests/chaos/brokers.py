"""The three brokers of a run, and what is done to them. At most one is away at a time, so that two stay in sync."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Collection
from pathlib import Path

from confluent_kafka.admin import AdminClient

from agents.broker import EmbeddedBroker
from pipeline.settings import BrokerSettings

__all__ = ["Brokers"]

NODES = 3
REQUEST_TIMEOUT_S = 30.0
PROPERTIES = {
    # The defaults look every 10 s for transactions whose worker is gone, and would mostly measure that wait.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # A broker that is back leads its partitions again, which is another move of leaders, after this and not 300 s.
    "leader.imbalance.check.interval.seconds": "4",
    "leader.imbalance.per.broker.percentage": "0",
}


class Brokers:
    """An embedded cluster of three in ``folder``, ended with this process."""

    def __init__(self, folder: Path) -> None:
        settings = BrokerSettings(data=str(folder), heap_mib=256, start_timeout_s=120)
        self._broker = EmbeddedBroker(settings, nodes=NODES, extra_properties=PROPERTIES)
        self.bootstrap_servers = ""
        self._admin: AdminClient

    def start(self) -> None:
        """Start all of them. Raises BrokerError."""
        self.bootstrap_servers = self._broker.start(owned=True).bootstrap_servers
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})

    def stop(self) -> None:
        """End all of them."""
        self._broker.stop()

    def pids(self) -> dict[int, int]:
        """Pids by node id."""
        return self._broker.node_pids()

    async def kill(self, node: int, number: signal.Signals) -> None:
        """End one node by this signal, and wait until it has gone."""
        os.kill(self.pids()[node], number)
        while node in self.pids():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)

    async def restart(self) -> None:
        """Start the nodes that are away; returns when clients are served again. Raises BrokerError."""
        await asyncio.to_thread(self._broker.start)

    async def freeze(self, node: int, seconds: float) -> None:
        """Stop a node's process for a while; it wakes up believing what it believed before."""
        pid = self.pids()[node]
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)

    async def leaders(self, topics: Collection[str]) -> dict[tuple[str, int], int]:
        """The node that leads each partition of ``topics``; -1 while there is none."""
        found = await asyncio.to_thread(self._admin.list_topics, timeout=REQUEST_TIMEOUT_S)
        return {
            (name, number): int(partition.leader)
            for name in topics
            for number, partition in found.topics[name].partitions.items()
        }
