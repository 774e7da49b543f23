"""Formatting and starting the nodes of one broker."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from agents.broker.java import Java
from agents.broker.layout import Layout, NodeFiles
from agents.broker.processes import MAIN_CLASS, find_nodes, reap, spawn
from agents.broker.properties import java_options, log4j2, server_properties, write_properties
from pipeline.errors import BrokerError

__all__ = ["format_node", "log_tail", "start_node", "write_settings"]

FORMAT_TIMEOUT_S = 60.0
APPEAR_TIMEOUT_S = 5.0
APPEAR_POLL_S = 0.002
TAIL_LINES = 6
TAIL_BYTES = 64 * 1024


def write_settings(files: NodeFiles, layout: Layout, node: int, extra: Mapping[str, str]) -> None:
    """Make the folder of node ``node`` (from 1) and its settings, with nothing left of a run that crashed.

    Raises:
        OSError: the folder cannot be written.
    """
    properties = server_properties(layout, node, files, extra)
    files.prepare()
    files.properties.write_text(write_properties(properties), encoding="ascii")
    files.logging.write_text(log4j2(files.server_log), encoding="utf-8")
    files.server_log.unlink(missing_ok=True)  # what it says from here on is about this start


def format_node(files: NodeFiles, cluster_id: str, java: Java, jars: Sequence[Path]) -> None:
    """Give a new node its empty log, once.

    Raises:
        OSError: Java cannot be run, or the folder cannot be written.
        BrokerError: Kafka refuses.
    """
    if files.formatted.exists():
        return
    tool = ["kafka.tools.StorageTool", "format", "--cluster-id", cluster_id, "--config", str(files.properties)]
    command = [str(java.program), "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", *tool]
    try:
        done = subprocess.run(command, env=_environ(jars), capture_output=True, timeout=FORMAT_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise BrokerError(f"Kafka took more than {FORMAT_TIMEOUT_S:.0f} s to format {files.records}.") from error
    if done.returncode:
        text = (done.stdout + done.stderr).decode(errors="replace")
        lines = [line for line in text.splitlines() if not line.startswith("\tat ")]
        raise BrokerError(f"Kafka cannot format {files.records}:\n" + "\n".join(lines[-TAIL_LINES:]))
    files.formatted.touch()


def start_node(files: NodeFiles, heap_mib: int, java: Java, jars: Sequence[Path]) -> int:
    """Start a formatted node and give its pid. It takes its time to be ready.

    Raises:
        OSError: Java cannot be run.
    """
    command = [str(java.program), *java_options(files, heap_mib), MAIN_CLASS, str(files.properties)]
    pid = spawn(command, _environ(jars), files.console)
    # Its command line, by which it is known, shows a moment after it was started.
    deadline = time.monotonic() + APPEAR_TIMEOUT_S
    while not find_nodes([files.properties]) and not reap(pid) and time.monotonic() < deadline:
        time.sleep(APPEAR_POLL_S)
    return pid


def _environ(jars: Sequence[Path]) -> dict[str, str]:
    return {**os.environ, "CLASSPATH": os.pathsep.join(map(str, jars))}


def log_tail(nodes: Iterable[NodeFiles]) -> str:
    """The last complaints of the nodes, for an error's message; empty when there are none."""
    lines = [line for files in nodes for file in (files.server_log, files.console) for line in _complaints(file)]
    return "\n".join(f"  {line}" for line in lines)


def _complaints(file: Path) -> list[str]:
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - TAIL_BYTES))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    words = (" ERROR ", " FATAL ", "Exception", "Error:", "error:", "Caused by")
    return [line[:300] for line in lines if any(word in line for word in words)][-TAIL_LINES:]
