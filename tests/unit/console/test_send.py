from __future__ import annotations

import itertools

import pytest
from click.testing import CliRunner

from agents.clients import NewRecord, Sender, Tailer
from agents.ledger import Partition
from agents.memory_log import MemoryLog, MemoryReader, MemoryWriter
from console.arrivals import Arrivals, read_outcome
from console.main import cli
from console.output import Output
from console.payloads import Payload, PayloadError
from console.send import SendOptions, SendResult, send_all
from console.tail import last
from pipeline.errors import EngineError, TransportError
from schemas.messages import Outcome, Source
from schemas.outcomes import encode_outcome
from schemas.records import RawRecord

from .conftest import MakeOutcome

OUTPUT = Output(as_json=True)
PAYLOADS = [
    Payload(name="a.png", value=b"aa"),
    Payload(name="big.png", value=b"x" * 900),
    Payload(name="c", value=b"c"),
]


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog({"in": 1, "results": 2}, clock_ms=itertools.count().__next__)


def run(log: MemoryLog, options: SendOptions, *, failing: dict[str, str] | None = None) -> SendResult:
    sender = Sender(MemoryWriter(log, failing), max_message_bytes=1_000)
    return send_all(sender, "in", PAYLOADS, options, None, OUTPUT)


def publish(log: MemoryLog, outcome: Outcome) -> None:
    log.append(NewRecord(topic="results", value=encode_outcome(outcome)[0]))


def test_a_record_that_is_too_large_is_refused_and_the_others_are_sent(log: MemoryLog) -> None:
    result = run(log, SendOptions())
    assert [record.value for record in log.partitions[Partition("in", 0)]] == [b"aa", b"c"]
    assert result.sent == 2
    assert [message.split(":")[0] for message in result.refused] == ["big.png"]
    assert not result.complete


def test_options_travel_as_key_and_headers_and_repeat_repeats(log: MemoryLog) -> None:
    run(log, SendOptions(key="k", task="embeddings", model="m", priority=0, repeat=2))
    rows = log.partitions[Partition("in", 0)]
    assert [record.value for record in rows] == [b"aa", b"aa", b"c", b"c"]
    headers = (("task", b"embeddings"), ("model", b"m"), ("priority", b"0"))
    assert {(record.key, record.headers) for record in rows} == {(b"k", headers)}


def test_what_is_asked_about_images_is_refused_for_prompts() -> None:
    done = CliRunner().invoke(cli, ["send", "prompts", "-", "--label", "cat"], input="hello")
    assert done.exit_code == 2
    assert "--label, --threshold and --prompt are about images" in done.output


def test_failed_deliveries_are_told_by_name(log: MemoryLog) -> None:
    result = run(log, SendOptions(), failing={"in": "Broker: disk full"})
    assert (result.sent, result.failed) == (0, ["a.png: Broker: disk full", "c: Broker: disk full"])
    assert not result.complete


def test_what_was_read_before_an_unreadable_file_is_still_sent(log: MemoryLog) -> None:
    def payloads() -> object:
        yield PAYLOADS[0]
        raise PayloadError("b.png: cannot be read: Permission denied")

    sender = Sender(MemoryWriter(log), max_message_bytes=1_000)
    result = send_all(sender, "in", payloads(), SendOptions(), None, OUTPUT)  # type: ignore[arg-type]
    assert (result.sent, result.refused) == (1, ["b.png: cannot be read: Permission denied"])


def test_waiting_pairs_outcomes_by_source_and_drops_strangers_and_repeats(
    log: MemoryLog, make_outcome: MakeOutcome
) -> None:
    arrivals = Arrivals(Tailer(MemoryReader(log), ["results"]))
    mine = make_outcome(source=Source(topic="in", partition=0, offset=0), text="yes")
    for outcome in (make_outcome(source=Source(topic="in", partition=0, offset=9), text="no"), mine, mine):
        publish(log, outcome)
    sender = Sender(MemoryWriter(log), max_message_bytes=1_000)
    options = SendOptions(wait=True, timeout_s=1.0)
    result = send_all(sender, "in", [PAYLOADS[0], PAYLOADS[2]], options, arrivals, OUTPUT)
    assert result.outcomes == [mine]
    assert result.missing == 1
    assert not result.complete


def test_an_outcome_that_is_not_ok_fails_the_command(log: MemoryLog, make_outcome: MakeOutcome) -> None:
    source = Source(topic="in", partition=0, offset=0)
    for outcome, complete in ((make_outcome(source=source, text="yes"), True), (make_outcome(error="no"), False)):
        result = SendResult(topic="in", sent=1, outcomes=[outcome])
        assert result.complete is complete


def test_the_check_can_end_the_wait(log: MemoryLog) -> None:
    def died() -> None:
        raise EngineError("worker 1 was ended by signal 9.")

    arrivals = Arrivals(Tailer(MemoryReader(log), ["results"]), check=died)
    arrivals.expect(Source(topic="in", partition=0, offset=0))
    with pytest.raises(EngineError):
        list(arrivals.until_all(5))


def test_a_record_that_is_no_outcome_is_named() -> None:
    with pytest.raises(TransportError, match="t/1@5: not Outcome JSON"):
        read_outcome(RawRecord(topic="t", partition=1, offset=5, value=b"{"))


def test_tail_shows_the_newest_over_all_partitions_in_order(log: MemoryLog, make_outcome: MakeOutcome) -> None:
    for number in range(7):
        publish(log, make_outcome(text=str(number)))
    tailer = Tailer(MemoryReader(log), ["results"])
    texts = [arrival.outcome.output.text for arrival in last(tailer, 3, OUTPUT)]  # type: ignore[union-attr]
    assert texts == ["4", "5", "6"]
