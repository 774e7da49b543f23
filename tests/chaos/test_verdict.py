"""The checker itself: a verdict that could not fail would prove nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.records import KIND, png
from tests.chaos.topics import Seen
from tests.chaos.verdict import Verdict, judge

IN, OUT, LETTERS = "in", "in.results", "dead-letters"


def record(offset: int, value: bytes = b"hello", kind: str = "prompt", key: bytes | None = b"k") -> Seen:
    return Seen(IN, 0, offset, 1_000, key, value, {KIND: kind.encode()})


def outcome(source: int, at: int, status: str = "ok", name: str = "", text: str = "hello", **changes: Any) -> Seen:
    value: dict[str, Any] = {
        "id": name or f"id-{source}",
        "status": status,
        "created_at_ms": at,
        "source": {"topic": IN, "partition": 0, "offset": source},
    }
    if status == "ok":
        value["output"] = {"type": "text", "text": text, "finish_reason": "stop"}
    if status == "error":
        value["error"] = {"code": changes.pop("code", "inference_error")}
    seen = Seen(OUT, 0, at, 2_000, b"k", json.dumps(value | changes.pop("fields", {})).encode(), {})
    return seen._replace(**changes)


def labels(best: int, others: tuple[int, ...] = (0, 1, 2, 3), score: float = 0.2319693) -> dict[str, Any]:
    rest = [{"label": str(other), "score": 0.0853367} for other in others]
    return {"output": {"type": "classification", "labels": [{"label": str(best), "score": score}, *rest]}}


def letter(of: Seen, **changes: Any) -> Seen:
    origin = {"topic": of.topic, "partition": str(of.partition), "offset": str(of.offset)}
    headers = {f"__connect.errors.{name}": text.encode() for name, text in origin.items()}
    return of._replace(topic=LETTERS, headers={**of.headers, **headers})._replace(**changes)


def verdict(
    mode: str, records: list[Seen], outcomes: list[Seen], letters: list[Seen], unsent: int = 0, *, sound: bool = False
) -> tuple[Verdict, set[str]]:
    places = {seen.place: seen for seen in records}
    acked = [*places, *((IN, 9, number) for number in range(unsent))]
    found = judge(mode, acked, places, outcomes, letters, sound=sound)
    return found, {problem.promise for problem in found.problems}


@pytest.fixture(params=["at_least_once", "exactly_once"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_one_right_outcome_for_every_record_keeps_the_promises(mode: str) -> None:
    poison = record(2, b"\xff", "poison-bytes")
    image = record(3, png(37), "image")
    outcomes = [outcome(1, 0), outcome(2, 1, "error", code="decode_error"), outcome(3, 2, fields=labels(7))]
    found, problems = verdict(mode, [record(1), poison, image], outcomes, [letter(poison)], sound=True)
    assert problems == set()
    assert (found.sent, found.outcomes, found.lost, found.repeated, found.letters) == (3, 3, 0, 0, 1)


BROKEN: dict[str, Callable[[str], tuple[Verdict, set[str]]]] = {
    "lost": lambda mode: verdict(mode, [record(1), record(2)], [outcome(1, 0)], []),
    "wrong": lambda mode: verdict(mode, [record(1)], [outcome(1, 0, text="another's")], []),
    "strays": lambda mode: verdict(mode, [record(1)], [outcome(1, 0), outcome(7, 1)], []),
    "disordered": lambda mode: verdict(mode, [record(1), record(2)], [outcome(2, 0), outcome(1, 1)], []),
    "letters_missing": lambda mode: verdict(mode, [record(1)], [outcome(1, 0, "error")], []),
    "unsent": lambda mode: verdict(mode, [record(1)], [outcome(1, 0)], [], unsent=1),
}


@pytest.mark.parametrize("promise", BROKEN)
def test_a_broken_promise_is_found_and_named(promise: str, mode: str) -> None:
    found, problems = BROKEN[promise](mode)
    assert problems == {promise}
    assert getattr(found, promise) == 1


def test_an_outcome_that_cannot_be_read_is_a_stray(mode: str) -> None:
    for value in (None, b"", b"{", b"[]", b'{"id": "a", "status": "ok", "source": {"topic": "in"}}'):
        assert verdict(mode, [record(1)], [outcome(1, 0), outcome(1, 1, value=value)], [])[1] == {"strays"}


def test_two_records_with_one_outcome_id_are_found(mode: str) -> None:
    found, problems = verdict(mode, [record(1), record(2)], [outcome(1, 0), outcome(2, 1, name="id-1")], [])
    assert problems == {"shared"}
    assert found.shared == 2


@pytest.mark.parametrize(
    "fields",
    [labels(8), labels(7, score=0.3), labels(7, (0, 1, 2, 4)), labels(7, (0, 1, 2)), {"output": None}, {"output": {}}],
)
def test_an_image_must_have_every_label_and_score_of_the_fake_model(mode: str, fields: dict[str, Any]) -> None:
    assert verdict(mode, [record(1, png(37), "image")], [outcome(1, 0, fields=fields)], [])[1] == {"wrong"}


@pytest.mark.parametrize(
    "fields",
    [{"output": {"type": "text", "text": "hello", "finish_reason": "length"}}, {"status": "expired"}, {"status": "?"}],
)
def test_an_outcome_must_be_all_of_what_its_record_deserves(mode: str, fields: dict[str, Any]) -> None:
    assert verdict(mode, [record(1)], [outcome(1, 0, fields=fields)], [])[1] == {"wrong"}


def test_an_outcome_on_the_results_of_another_topic_is_wrong(mode: str) -> None:
    assert verdict(mode, [record(1)], [outcome(1, 0, topic="other.results")], [])[1] == {"wrong"}


@pytest.mark.parametrize(
    ("kind", "code"),
    [("prompt", "decode_error"), ("poison-prompt", "decode_error"), ("poison-bytes", "inference_error")],
)
def test_an_error_for_another_reason_than_the_record_gives_is_wrong(mode: str, kind: str, code: str) -> None:
    bad = record(1, kind=kind)
    assert verdict(mode, [bad], [outcome(1, 0, "error", code=code)], [letter(bad)])[1] == {"wrong"}


def test_a_good_record_may_fail_only_while_sessions_fail(mode: str) -> None:
    outcomes, letters = [outcome(1, 0, "error")], [letter(record(1))]
    found, problems = verdict(mode, [record(1)], outcomes, letters)
    assert (found.blamed, problems) == (1, set())
    assert verdict(mode, [record(1)], outcomes, letters, sound=True)[1] == {"blamed"}


def test_an_answer_to_poison_is_wrong(mode: str) -> None:
    poison = record(1, b"p1~", "poison-prompt")
    assert verdict(mode, [poison], [outcome(1, 0, text="p1~")], [])[1] == {"wrong"}


def test_an_outcome_under_another_key_is_wrong(mode: str) -> None:
    assert verdict(mode, [record(1)], [outcome(1, 0, key=b"other")], [])[1] == {"wrong"}


@pytest.mark.parametrize("changes", [{"value": b"changed"}, {"key": None}, {"headers": {}}])
def test_a_dead_letter_must_be_the_record_unchanged(mode: str, changes: dict[str, Any]) -> None:
    poison = record(1, b"\xff", "poison-bytes")
    changed = letter(poison)
    changed = changed._replace(**changes) if "headers" not in changes else _without(changed, KIND)
    outcomes = [outcome(1, 0, "error", code="decode_error")]
    assert verdict(mode, [poison], outcomes, [changed])[1] == {"letters_missing", "letters_altered"}
    assert "letters_altered" in verdict(mode, [poison], outcomes, [letter(poison), changed])[1]


@pytest.mark.parametrize("stray", [letter(record(7)), letter(record(1), headers={})])
def test_a_dead_letter_of_no_record_is_found(mode: str, stray: Seen) -> None:
    assert "letters_altered" in verdict(mode, [record(1)], [outcome(1, 0)], [stray])[1]


def _without(seen: Seen, header: str) -> Seen:
    return seen._replace(headers={name: value for name, value in seen.headers.items() if name != header})


def test_a_repeat_with_an_equal_id_is_allowed_at_least_once_and_not_exactly_once() -> None:
    outcomes = [outcome(1, 0), outcome(1, 1)]
    assert verdict("at_least_once", [record(1)], outcomes, [])[1] == set()
    found, problems = verdict("exactly_once", [record(1)], outcomes, [])
    assert problems == {"repeated"}
    assert found.repeated == 1


def test_a_repeat_with_another_id_breaks_at_least_once() -> None:
    found, problems = verdict("at_least_once", [record(1)], [outcome(1, 0), outcome(1, 1, name="other")], [])
    assert problems == {"unequal"}
    assert found.unequal == 1


def test_a_repeated_or_needless_dead_letter_breaks_exactly_once_alone() -> None:
    poison, good = record(1, b"\xff", "poison-bytes"), record(2)
    outcomes = [outcome(1, 0, "error", code="decode_error"), outcome(2, 1)]
    letters = [letter(poison), letter(poison), letter(good)]
    assert verdict("exactly_once", [poison, good], outcomes, letters)[1] == {"letters_repeated", "letters_stray"}
    assert verdict("at_least_once", [poison, good], outcomes, letters)[1] == set()


def test_a_repeat_with_another_output_breaks_at_least_once() -> None:
    found, problems = verdict("at_least_once", [record(1)], [outcome(1, 0), outcome(1, 1, text="hallo")], [])
    assert problems == {"changed", "wrong"}
    assert found.changed == 1


def test_a_repeat_of_the_same_moment_was_recalled_and_not_computed_again() -> None:
    outcomes = [outcome(1, 0), outcome(1, 5), outcome(1, 6, fields={"created_at_ms": 5})]
    found, problems = verdict("at_least_once", [record(1)], outcomes, [])
    assert (found.repeated, found.recalled, problems) == (2, 1, set())
