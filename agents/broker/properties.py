"""What Kafka is started with: ``server.properties``, its log's settings, and Java's options. Pure functions.

Sources: Kafka's documentation of its broker settings, and our own measurements for the sizes (docs/broker.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agents.broker.layout import HOST, Layout, NodeFiles
from pipeline.errors import BrokerError

__all__ = ["RESERVED", "check_extra", "java_options", "log4j2", "server_properties", "write_properties"]

MEBIBYTE = 1024 * 1024
RESERVED = frozenset(
    {
        "advertised.listeners",
        "controller.listener.names",
        "controller.quorum.bootstrap.servers",
        "controller.quorum.voters",
        "inter.broker.listener.name",
        "listener.security.protocol.map",
        "listeners",
        "log.dir",
        "log.dirs",
        "metadata.log.dir",
        "node.id",
        "process.roles",
    }
)
"""The properties that the embedded broker sets itself: where it listens, where it keeps its data, who its nodes are."""

LOG4J2 = """\
<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="WARN">
  <Appenders>
    <RollingFile name="file" fileName="{file}" filePattern="{file}.%i">
      <PatternLayout pattern="[%d] %p %m (%c)%n%throwable"/>
      <SizeBasedTriggeringPolicy size="10 MB"/>
      <DefaultRolloverStrategy max="2"/>
    </RollingFile>
  </Appenders>
  <Loggers>
    <Root level="INFO"><AppenderRef ref="file"/></Root>
    <Logger name="org.apache.kafka.clients" level="WARN"/>
    <Logger name="org.apache.kafka.common.config.AbstractConfig" level="WARN"/>
    <Logger name="kafka.server.KafkaConfig" level="WARN"/>
  </Loggers>
</Configuration>
"""


def check_extra(extra: Mapping[str, str]) -> None:
    """Refuse properties that are not the caller's to set.

    Raises:
        BrokerError: ``extra`` has one of :data:`RESERVED`.
    """
    if clash := sorted(RESERVED & set(extra)):
        raise BrokerError(f"extra_properties: the embedded broker sets {', '.join(clash)} itself; leave it out.")


def server_properties(layout: Layout, node: int, files: NodeFiles, extra: Mapping[str, str]) -> dict[str, str]:
    """The settings of node ``node`` (from 1). ``extra`` is added last and wins."""
    return {**_identity(layout, node, files), **_replication(layout.nodes), **SMALL_AND_QUICK, **extra}


def _identity(layout: Layout, node: int, files: NodeFiles) -> dict[str, str]:
    port, controller_port = layout.ports[node - 1], layout.controller_ports[node - 1]
    voters = (f"{number}@{HOST}:{port}" for number, port in enumerate(layout.controller_ports, start=1))
    return {
        "process.roles": "broker,controller",
        "node.id": str(node),
        "controller.quorum.voters": ",".join(voters),
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(files.records),
    }


def _replication(nodes: int) -> dict[str, str]:
    copies, in_sync = str(min(nodes, 3)), str(2 if nodes >= 3 else 1)
    topics = ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
    return {
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        **{f"{topic}.replication.factor": copies for topic in topics},
        **{f"{topic}.num.partitions": "4" for topic in topics},
        **{f"{topic}.min.isr": in_sync for topic in topics if topic != "offsets.topic"},
    }


SMALL_AND_QUICK = {
    "auto.create.topics.enable": "false",
    "num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    # A node that was killed may come back only when its session is over: 9 s by default.
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "1000",
    # Topics set their own max.message.bytes; a request holds at least one record batch, at most 4 x 100 MiB.
    "message.max.bytes": str(20 * MEBIBYTE),
    "socket.request.max.bytes": str(512 * MEBIBYTE),
    # The default would take 128 MiB of the heap at once.
    "log.cleaner.dedupe.buffer.size": str(8 * MEBIBYTE),
    "log.segment.bytes": str(256 * MEBIBYTE),
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "4",
}


def write_properties(properties: Mapping[str, str]) -> str:
    """The text of a Java properties file. Everything but plain ASCII is escaped."""
    return "".join(f"{_escape(key)}={_escape(value)}\n" for key, value in properties.items())


def _escape(text: str) -> str:
    units = text.encode("utf-16-be")
    codes = (int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2))
    return "".join(chr(code) if 32 < code < 127 and chr(code) not in "\\=:#!" else f"\\u{code:04x}" for code in codes)


def log4j2(file: Path) -> str:
    """Settings of Kafka's log: at most three files of 10 MB."""
    escaped = str(file)
    for plain, entity in (("&", "&amp;"), ("<", "&lt;"), ('"', "&quot;"), ("$", "$$")):
        escaped = escaped.replace(plain, entity)
    return LOG4J2.format(file=escaped)


def java_options(files: NodeFiles, heap_mib: int) -> list[str]:
    """Java's options for a node that starts quickly and stays small."""
    return [
        f"-Xmx{heap_mib}m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",
        f"-XX:ErrorFile={files.folder / 'java-crash.log'}",
        f"-Djava.io.tmpdir={files.scratch}",
        "-Djava.awt.headless=true",
        "-Djava.net.preferIPv4Stack=true",
        f"-Dlog4j2.configurationFile={files.logging.as_uri()}",
    ]
