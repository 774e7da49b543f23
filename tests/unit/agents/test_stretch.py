from __future__ import annotations

import pytest

from agents.clients import NewRecord, Tailer
from agents.ledger import Partition
from agents.memory_log import MemoryLog, MemoryReader
from agents.stretch import Stretch, StretchRead, parse_stretch, read_stretch
from pipeline.errors import TransportError
from schemas.codecs import Decoder
from schemas.messages import TextInput
from schemas.records import RawRecord


class GrowingReader(MemoryReader):
    """A topic that gets one record more with every read, so that its end is never reached."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log)
        self._growing = log

    def read(self, timeout_s: float, max_records: int) -> list[RawRecord]:
        found = super().read(timeout_s, max_records)
        self._growing.append(NewRecord(topic="in", value=b"later"))
        return found

    def caught_up(self) -> bool:
        return False


class SilentReader(MemoryReader):
    """Kafka that has gone away."""

    def read(self, timeout_s: float, max_records: int) -> list[RawRecord]:
        return []


def log_of(*values: bytes, partitions: int = 1) -> MemoryLog:
    log = MemoryLog({"in": partitions})
    for value in values:
        log.append(NewRecord(topic="in", value=value))
    return log


def read(log: MemoryLog, text: str, reader: type[MemoryReader] = MemoryReader, **options: int) -> StretchRead:
    decoder = Decoder("prompts", max_bytes=1_000)
    return read_stretch(parse_stretch(text), Tailer(reader(log), ["in"]), decoder, **options)


def prompts(found: StretchRead) -> list[str]:
    return [request.input.messages[0].content for request in found.requests if isinstance(request.input, TextInput)]


@pytest.mark.parametrize(
    ("text", "stretch"),
    [
        ("kafka:in", Stretch(topic="in")),
        ("kafka:inference.images/3", Stretch(topic="inference.images", partition=3)),
        ("kafka:in/0:5-9", Stretch(topic="in", partition=0, first=5, last=9)),
        ("kafka:in:5-", Stretch(topic="in", first=5)),
        ("kafka:in:-9", Stretch(topic="in", last=9)),
    ],
)
def test_a_stretch_is_read_from_its_text_and_written_as_it_was(text: str, stretch: Stretch) -> None:
    assert parse_stretch(text) == stretch
    assert str(stretch) == text


@pytest.mark.parametrize("text", ["kafka:", "kafka:in/x", "kafka:in:5", "kafka:in/0:9-5", "in", "kafka:a b"])
def test_what_is_no_stretch_is_refused(text: str) -> None:
    with pytest.raises(TransportError, match=r"kafka:"):
        parse_stretch(text)


def test_the_offsets_are_kept_to_both_ends_included() -> None:
    log = log_of(*(b"%d" % number for number in range(10)))
    assert prompts(read(log, "kafka:in:3-5")) == ["3", "4", "5"]
    assert prompts(read(log, "kafka:in:-1")) == ["0", "1"]
    assert prompts(read(log, "kafka:in:8-99")) == ["8", "9"]
    assert prompts(read(log, "kafka:in", max_records=2)) == ["0", "1"]


def test_one_partition_or_all_are_read() -> None:
    log = log_of(b"a", b"b", b"c", b"d", partitions=2)
    assert prompts(read(log, "kafka:in/1")) == ["b", "d"]
    assert sorted(prompts(read(log, "kafka:in"))) == ["a", "b", "c", "d"]
    with pytest.raises(TransportError, match=r"kafka:in/7: the topic has no such partition, only 0, 1\."):
        read(log, "kafka:in/7")


def test_a_topic_that_grows_meanwhile_does_not_make_the_stretch_longer() -> None:
    assert prompts(read(log_of(b"a", b"b"), "kafka:in", GrowingReader)) == ["a", "b"]


def test_an_empty_stretch_says_what_the_topic_holds() -> None:
    with pytest.raises(TransportError, match=r"no record is there\. The topic holds 0:0-1\."):
        read(log_of(b"a", b"b"), "kafka:in:5-9")
    with pytest.raises(TransportError, match=r"The topic holds none at all\."):
        read(log_of(), "kafka:in")


def test_records_that_are_no_requests_are_counted_and_passed_over() -> None:
    found = read(log_of(b"good", b'{"max_tokens": -1}', b"\xff\xfe", b"fine"), "kafka:in")
    assert prompts(found) == ["good", "fine"]
    assert found.skipped == 2
    assert found.first_error.startswith("in/0/1, ")


def test_a_stretch_of_nothing_but_bad_records_is_refused() -> None:
    with pytest.raises(TransportError, match=r"none of its 2 records is a request; the first: in/0/0, "):
        read(log_of(b"\xff", b"\xff"), "kafka:in")


def test_kafka_that_falls_silent_ends_the_reading() -> None:
    with pytest.raises(TransportError, match="gave no record for 10 s"):
        read(log_of(b"a"), "kafka:in", SilentReader)


def test_gaps_at_the_end_of_a_partition_end_the_reading() -> None:
    log = log_of(b"a", b"b", b"c")
    tailer = Tailer(MemoryReader(log), ["in"])
    log.partitions[Partition("in", 0)].pop()  # as a transaction's marker, which takes an offset and is no record
    found = read_stretch(parse_stretch("kafka:in"), tailer, Decoder("prompts", max_bytes=1_000))
    assert prompts(found) == ["a", "b"]
