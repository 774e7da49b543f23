"""The embedded broker: the real Apache Kafka in KRaft mode, on loopback, in a folder of its own."""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from msgspec import Struct

from agents.broker.cluster import MAX_NODES, Cluster
from agents.broker.fetching import JarFetcher, JgoFetcher
from agents.broker.guard import Guard
from agents.broker.jars import Progress, cache_path, ensure_jars
from agents.broker.java import find_java
from agents.broker.layout import load_layout
from agents.broker.locking import locked
from agents.broker.properties import check_extra
from pipeline.errors import BrokerError
from pipeline.settings import BrokerSettings

__all__ = ["BrokerInfo", "EmbeddedBroker"]

NO_PROPERTIES: Mapping[str, str] = MappingProxyType({})


class BrokerInfo(Struct, frozen=True, kw_only=True):
    """A running broker: where clients reach it, the pids of its live nodes, its folder, how many nodes it has."""

    bootstrap_servers: str
    pids: tuple[int, ...]
    data: Path
    nodes: int


class EmbeddedBroker:
    """One Apache Kafka cluster on this machine, known by its folder.

    Objects with the same folder, in any process, are the same broker. Only loopback is listened on: on ``port`` when it
    is free, and on free ports else (the same again after a restart, when they are still free).

    Args:
        settings: its folder (made if absent), Java's heap, and how long Kafka may take to be ready.
        nodes: 1, or 3 for a replicated cluster. A folder keeps the number it was made with.
        port: where clients should reach the first node; ``None`` wishes for none. A running broker stays where it is.
        extra_properties: Kafka's broker settings, added to the built-in ones and winning over them.
        stop_timeout_s: how long Kafka may take to end before it is killed.
        jars: the folder of Kafka's jars; ``None`` is the one in the user's cache.
        fetcher: what brings missing jars.

    Raises:
        BrokerError: ``nodes`` or ``extra_properties`` cannot be had.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        nodes: int = 1,
        port: int | None = None,
        extra_properties: Mapping[str, str] = NO_PROPERTIES,
        stop_timeout_s: float = 10.0,
        jars: Path | None = None,
        fetcher: JarFetcher | None = None,
    ) -> None:
        if not 1 <= nodes <= MAX_NODES:
            raise BrokerError(f"nodes={nodes}: the embedded broker has 1 to {MAX_NODES} nodes.")
        check_extra(extra_properties)
        self.data = settings.data_path.absolute().resolve()
        self.start_timeout_s = settings.start_timeout_s
        self.stop_timeout_s = stop_timeout_s
        self.jars = jars or cache_path()
        self.fetcher = fetcher or JgoFetcher()
        self._cluster = Cluster(
            self.data, nodes=nodes, heap_mib=settings.heap_mib, extra_properties=dict(extra_properties), port=port
        )
        self._guard: Guard | None = None

    def start(self, progress: Progress | None = None, *, owned: bool = False) -> BrokerInfo:
        """Start the broker, or find it running, and return once clients can produce and consume.

        Dead nodes of a running broker are started again.

        Args:
            progress: told of Kafka's jars as they are fetched, from this thread.
            owned: end it with this process, however this process ends (SIGKILL too). A broker that was running
                before is not taken over: it goes on.

        Raises:
            BrokerError: it cannot be fetched, started or reached; nothing that this call started is left running.
        """
        with self._locked_folder():
            self._check_nodes()
            alive = self._cluster.alive()
            if len(alive) == self._cluster.nodes:
                self._check_ready()
            else:
                self._start(progress, owned=owned and not alive)
            return self._info()

    def stop(self) -> bool:
        """End the broker, whoever started it: gracefully, or by force after ``stop_timeout_s``. Its records stay.

        Returns:
            Whether anything was running.

        Raises:
            BrokerError: a process cannot be ended.
        """
        if not self.data.is_dir():
            return False
        with self._locked_folder():
            cluster = self._whole_cluster()
            found = bool(cluster.alive())
            cluster.end(self.stop_timeout_s)
            self._dismiss_guard()
            return found

    def status(self) -> BrokerInfo | None:
        """The broker as it is now, perhaps not ready yet or with dead nodes; ``None`` when no node is alive."""
        layout = load_layout(self.data)
        return self._info() if layout and layout.ports and self._whole_cluster().alive() else None

    def node_pids(self) -> dict[int, int]:
        """The pids of the live nodes, by node id (from 1)."""
        alive = self._cluster.alive()
        nodes = enumerate(self._cluster.properties, start=1)
        return {number: alive[path] for number, path in nodes if path in alive}

    def _whole_cluster(self) -> Cluster:
        """The cluster with as many nodes as the folder can have, whatever number this object was made with."""
        return Cluster(self.data, nodes=MAX_NODES, heap_mib=0, extra_properties=NO_PROPERTIES)

    @contextmanager
    def _locked_folder(self) -> Iterator[None]:
        """Hold the folder's lock; of a folder that cannot be used, say what to do."""
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            with locked(self.data / "broker.lock", 2 * self.start_timeout_s + self.stop_timeout_s):
                yield
        except OSError as error:
            raise BrokerError(
                f"The embedded broker cannot use its folder {self.data}: {error.strerror or error}. Make room there or "
                "make it writable; or name another folder with MILLRACE_BROKER__DATA; or set KAFKA_BOOTSTRAP_SERVERS "
                "to a Kafka that is running."
            ) from error

    def _check_nodes(self) -> None:
        layout = load_layout(self.data)
        if layout is None or not layout.ports:
            # Left over from a folder of this name whose broker.json is gone: nobody can know where it listens.
            self._whole_cluster().end(self.stop_timeout_s)
        if layout is not None and layout.nodes != self._cluster.nodes:
            raise BrokerError(
                f"The broker in {self.data} was made with {layout.nodes} node(s), not {self._cluster.nodes}. Start it "
                "with that number; or name another folder with MILLRACE_BROKER__DATA; or stop it and remove the folder "
                "(its records are lost)."
            )

    def _check_ready(self) -> None:
        if reason := self._cluster.wait(self.start_timeout_s):
            raise BrokerError(
                f"The broker in {self.data} runs (pids {sorted(self._cluster.alive().values())}) but serves no "
                f"clients: {reason}. Run `millrace broker stop`, then start it again.{self._cluster.complaints()}"
            )

    def _start(self, progress: Progress | None, *, owned: bool) -> None:
        java = find_java()
        jars = ensure_jars(self.jars, self.fetcher, progress)
        if owned:
            self._own()
        try:
            self._cluster.start(java, jars, self.start_timeout_s)
        except BaseException:
            self._dismiss_guard()
            raise

    def _own(self) -> None:
        if self._guard is None:
            self._guard = Guard(self._cluster.properties, self.stop_timeout_s, self.data / "guard.log")
            atexit.register(self._stop_owned)

    def _stop_owned(self) -> None:
        if self._guard is not None and self._guard.is_mine:
            self.stop()

    def _dismiss_guard(self) -> None:
        if self._guard is not None and self._guard.is_mine:
            atexit.unregister(self._stop_owned)
            self._guard.dismiss()
            self._guard = None

    def _info(self) -> BrokerInfo:
        layout = self._cluster.layout()
        pids = sorted(self._whole_cluster().alive().values())
        return BrokerInfo(
            bootstrap_servers=layout.bootstrap_servers, pids=tuple(pids), data=self.data, nodes=layout.nodes
        )
