"""What explains a broken promise: all that workers and the group's log say of one partition, in the order of time."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = ["Trace", "group_traces", "worker_traces"]

LINE = re.compile(r"(\d+) \w+ chaos\.worker: (.*)")
BATCH = re.compile(r"baseOffset: .* producerId: (-?\d+) producerEpoch: (-?\d+) .* CreateTime: (\d+) ")
OFFSET = re.compile(r"\| offset: .* key: (\{.*\}) payload: (\{.*\}|<DELETE>)")
MARKER = re.compile(r"\| offset: .* endTxnMarker: (\w+)")


class Trace(NamedTuple):
    """Something that was said: when (milliseconds since the epoch), by whom, what."""

    at_ms: int
    who: str
    what: str


def worker_traces(logs: Iterable[Path], topic: str, partition: int) -> list[Trace]:
    """The lines of the workers' logs that name the partition; each log's name is its worker's."""
    name = re.compile(rf"\b{re.escape(topic.rpartition('.')[2])}/{partition}\b")
    return sorted(
        Trace(int(match[1]), log.stem, match[2])
        for log in logs
        for line in log.read_text(errors="replace").splitlines()
        if (match := LINE.match(line)) and name.search(match[2])
    )


def group_traces(dumps: Mapping[str, str], topic: str, partition: int) -> list[Trace]:
    """The offsets that stand in the group's log, and the ends of the transactions that they came with.

    Args:
        dumps: by replica, what Kafka's ``DumpLogSegments --offsets-decoder`` prints of ``__consumer_offsets``.
        topic: full name.
        partition: of it.
    """
    holders: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    for replica, text in sorted(dumps.items()):
        for at_ms, what in _offsets(text, topic, partition):
            holders[at_ms, what].append(replica)
    return sorted(Trace(at_ms, " ".join(replicas), what) for (at_ms, what), replicas in holders.items())


def _offsets(text: str, topic: str, partition: int) -> Iterator[tuple[int, str]]:
    at_ms, producer, producers = 0, "", set()
    for line in text.splitlines():
        if batch := BATCH.match(line):
            producer, at_ms = f"producer {batch[1]} epoch {batch[2]}", int(batch[3])
        elif (record := OFFSET.match(line)) and _names(record[1], topic, partition):
            producers.add(producer)
            yield at_ms, f"{_committed(record[2])} by {producer}"
        elif (marker := MARKER.match(line)) and producer in producers:
            producers.remove(producer)
            yield at_ms, f"{marker[1]} by {producer}"


def _names(key: str, topic: str, partition: int) -> bool:
    data = json.loads(key)["data"]
    return (data.get("topic"), data.get("partition")) == (topic, partition)


def _committed(payload: str) -> str:
    return "no offset" if payload == "<DELETE>" else f"offset {json.loads(payload)['data']['offset']}"
