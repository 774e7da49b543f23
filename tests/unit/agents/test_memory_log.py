from __future__ import annotations

import pytest

from agents.clients import NewRecord, RecordTooLargeError, Report, Sender, Tailer
from agents.ledger import Partition
from agents.memory_log import MemoryLog, MemoryReader, MemoryWriter
from pipeline.errors import TransportError
from schemas.messages import Source


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog({"in": 2, "out": 1})


def record(value: bytes = b"v", *, topic: str = "in", key: bytes | None = None, name: str = "") -> NewRecord:
    return NewRecord(topic=topic, value=value, key=key, name=name)


def test_a_report_names_the_place_of_the_record(log: MemoryLog) -> None:
    reports: list[Report] = []
    sender = Sender(MemoryWriter(log), max_message_bytes=1_000)
    sender.send(record(topic="out"), reports.append)
    sender.send(record(topic="out"), reports.append)
    assert sender.flush(1) == 0
    assert [report.source for report in reports] == [
        Source(topic="out", partition=0, offset=0),
        Source(topic="out", partition=0, offset=1),
    ]
    assert sender.delivered == 2


def test_a_record_that_no_topic_would_take_is_refused_by_name_and_the_next_is_sent(log: MemoryLog) -> None:
    sender = Sender(MemoryWriter(log), max_message_bytes=1_000)
    with pytest.raises(RecordTooLargeError, match=r"big\.png: 1,000 bytes is more than in takes \(872\)"):
        sender.send(record(b"x" * 1_000, name="big.png"))
    sender.send(record(b"x" * 872))
    sender.flush(1)
    assert sender.delivered == 1


def test_key_and_headers_count_as_size() -> None:
    assert NewRecord(topic="t", value=b"12", key=b"345", headers=(("ab", b"c"),)).size == 8


def test_failed_deliveries_are_counted_apart(log: MemoryLog) -> None:
    sender = Sender(MemoryWriter(log, failing={"out": "not today"}), max_message_bytes=1_000)
    sender.send(record(topic="out"))
    sender.send(record(topic="in"))
    sender.flush(1)
    assert (sender.delivered, [failure.error for failure in sender.failures]) == (1, ["not today"])


def test_a_tailer_from_the_end_sees_only_what_comes_later(log: MemoryLog) -> None:
    log.append(record(b"before"))
    tailer = Tailer(MemoryReader(log), ["in"], start="end")
    log.append(record(b"after"))
    assert [found.value for found in tailer.read(0)] == [b"after"]


def test_a_tailer_reads_every_partition_from_the_beginning(log: MemoryLog) -> None:
    for value in (b"1", b"2", b"3"):
        log.append(record(value))
    with Tailer(MemoryReader(log), ["in"], start="beginning") as tailer:
        assert {found.value for found in tailer.read(0)} == {b"1", b"2", b"3"}
        assert tailer.caught_up()


def test_a_tailer_takes_offsets_and_starts_other_partitions_at_their_end(log: MemoryLog) -> None:
    for number in range(6):
        log.append(record(b"%d" % number))
    tailer = Tailer(MemoryReader(log), ["in"], start={Partition("in", 0): 2})
    assert [(found.partition, found.offset) for found in tailer.read(0)] == [(0, 2)]


def test_rewinding_goes_back_at_most_to_the_beginning(log: MemoryLog) -> None:
    for number in range(3):
        log.append(record(b"%d" % number, topic="out"))
    tailer = Tailer(MemoryReader(log), ["out"])
    tailer.rewind(2)
    assert [found.offset for found in tailer.read(0)] == [1, 2]
    tailer.rewind(99)
    assert [found.offset for found in tailer.read(0)] == [0, 1, 2]


def test_a_topic_that_is_missing_is_named(log: MemoryLog) -> None:
    with pytest.raises(TransportError, match="topic nowhere"):
        Tailer(MemoryReader(log), ["nowhere"])
