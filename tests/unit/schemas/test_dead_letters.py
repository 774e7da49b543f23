from __future__ import annotations

import msgspec

from schemas.dead_letters import PREFIX, DeadLetterHeaders, dead_letter
from schemas.errors import InferenceError
from schemas.records import RawRecord
from tests.unit.schemas.samples import decode_prompt, refusal


def failed(headers: tuple[tuple[str, bytes | None], ...] = ()) -> RawRecord:
    return RawRecord(topic="inference.prompts", partition=2, offset=7, key=b"\xff", value=b"\xfe", headers=headers)


def test_a_dead_letter_keeps_key_value_and_headers_byte_for_byte_and_in_order() -> None:
    headers = (("b", b"\xff"), ("a", None), ("b", b""))
    letter = dead_letter(failed(headers), InferenceError("the model failed"), "worker-1")
    assert (letter.key, letter.value, letter.headers[:3]) == (b"\xff", b"\xfe", headers)


def test_a_tombstone_stays_a_tombstone() -> None:
    letter = dead_letter(RawRecord(topic="t", partition=0, offset=0), refusal(decode_prompt, None), "w")
    assert (letter.key, letter.value) == (None, None)


def test_the_error_is_told_in_kafka_connects_headers() -> None:
    error = refusal(decode_prompt, b"\xfe")
    headers = dict(dead_letter(failed(), error, "worker-1").headers)
    told = msgspec.convert({name: (value or b"").decode() for name, value in headers.items()}, DeadLetterHeaders)
    assert (told.topic, told.partition, told.offset) == ("inference.prompts", "2", "7")
    assert (told.connector, told.task_id, told.stage) == ("millrace", "worker-1", "admit")
    assert told.class_name == "schemas.validation"
    assert told.exception_class == "schemas.errors.DecodeError"
    assert told.exception_message.startswith("value: not valid UTF-8: byte 0 is 0xfe")
    assert "Traceback" in told.exception_stacktrace


def test_an_earlier_failures_headers_give_way_when_a_replayed_letter_fails_again() -> None:
    first = dead_letter(failed((("mine", b"1"),)), InferenceError("first"), "w1")
    second = dead_letter(failed(first.headers), InferenceError("second"), "w2")
    names = [name for name, _ in second.headers]
    assert names[0] == "mine"
    assert len(names) == len(set(names)) == 11
    assert dict(second.headers)[f"{PREFIX}exception.message"] == b"value: second"


def test_text_that_utf8_cannot_hold_is_replaced_and_long_text_cut() -> None:
    headers = dict(dead_letter(failed(), InferenceError("\ud800" + "x" * 5_000), "w").headers)
    message = headers[f"{PREFIX}exception.message"]
    assert message is not None
    assert message.startswith(b"value: ?xxx")
    assert len(message) == 2_000
