"""The brokers of a run, one or three, and what is done to them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from confluent_kafka.admin import AdminClient

from agents.broker import EmbeddedBroker
from agents.broker.fetching import JgoFetcher
from agents.broker.jars import cache_path, ensure_jars
from agents.broker.java import find_java
from pipeline.settings import BrokerSettings

__all__ = ["OFFSETS_DUMP", "SESSION_TIMEOUT_S", "Brokers"]

SESSION_TIMEOUT_S = 6
REQUEST_TIMEOUT_S = 30.0
DUMP_TIMEOUT_S = 120.0
DUMP_TOOL = "kafka.tools.DumpLogSegments"
OFFSETS_DUMP = "offsets.txt"
SKIPPED_MARKERS = "these partitions are likely deleted already and hence can be skipped"
PROPERTIES = {
    # The defaults look every 10 s for transactions whose worker is gone, and would mostly measure that wait.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # A broker that is back leads its partitions again, which is another move of leaders, after this and not 300 s.
    "leader.imbalance.check.interval.seconds": "4",
    "leader.imbalance.per.broker.percentage": "0",
    # In the new group protocol the brokers decide how soon a member is gone; their defaults are 45 s and 5 s.
    "group.consumer.min.session.timeout.ms": str(SESSION_TIMEOUT_S * 1_000),
    "group.consumer.session.timeout.ms": str(SESSION_TIMEOUT_S * 1_000),
    "group.consumer.min.heartbeat.interval.ms": str(SESSION_TIMEOUT_S * 250),
    "group.consumer.heartbeat.interval.ms": str(SESSION_TIMEOUT_S * 250),
}


class Brokers:
    """An embedded cluster of ``nodes`` (1 or 3) in ``folder``, ended with this process."""

    def __init__(self, folder: Path, nodes: int) -> None:
        settings = BrokerSettings(data=str(folder), heap_mib=256, start_timeout_s=120)
        self._broker = EmbeddedBroker(settings, nodes=nodes, extra_properties=PROPERTIES)
        self.bootstrap_servers = ""
        self._folder = folder
        self._lives = 0
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

    async def kill(self, nodes: Collection[int], number: signal.Signals) -> None:
        """End ``nodes`` by this signal, and wait until they have gone."""
        pids = self.pids()
        for node in nodes:
            os.kill(pids[node], number)
        while not self.pids().keys().isdisjoint(nodes):  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.1)

    async def restart(self) -> None:
        """Start the nodes that are away; returns when clients are served again. Raises BrokerError."""
        self._keep_logs()
        await asyncio.to_thread(self._broker.start)

    def _keep_logs(self) -> None:
        """Kafka begins its log anew at each start."""
        self._lives += 1
        for log in self._folder.glob("node-*/server.log"):
            shutil.copy(log, log.with_name(f"server-{self._lives}.log"))

    def markers_skipped(self) -> int:
        """How often a broker has held partitions without a leader for deleted, and ended a transaction without them.

        That is KAFKA-20734 (https://github.com/apache/kafka/pull/22680): such a transaction is open for ever.
        """
        logs = self._folder.glob("node-*/server*.log")
        return sum(log.read_text(errors="replace").count(SKIPPED_MARKERS) for log in logs)

    def dump_offsets(self) -> None:
        """Write what stands in each node's copy of ``__consumer_offsets`` beside its log, as ``offsets.txt``."""
        environ = {**os.environ, "CLASSPATH": os.pathsep.join(map(str, ensure_jars(cache_path(), JgoFetcher())))}
        for node in self._folder.glob("node-*"):
            logs = sorted(str(log) for log in node.glob("records/__consumer_offsets-*/*.log") if log.stat().st_size)
            tool = [DUMP_TOOL, "--offsets-decoder", "--files", ",".join(logs)]
            with (node / OFFSETS_DUMP).open("wb") as dump, suppress(subprocess.TimeoutExpired):
                command = [str(find_java().program), *tool]
                subprocess.run(
                    command, env=environ, stdout=dump, stderr=subprocess.STDOUT, timeout=DUMP_TIMEOUT_S, check=False
                )

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
