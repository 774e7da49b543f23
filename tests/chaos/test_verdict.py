"""The checker itself: a verdict that could not fail would prove nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.records import KIND, png
from tests.chaos.topics import Seen
from tests.chaos.verdict import Verdict, judge

IN, OUT, LETTERS = "in", "out", "dead-letters"


def record(offset: int, value: bytes = b"hello", kind: str = "prompt", key: bytes | None = b"k") -> Seen:
    return Seen(IN, 0, offset, 1_000, key, value, {KIND: kind.encode()})


def outcome(source: int, at: int, status: str = "ok", name: str = "", text: str = "hello", **changes: Any) -> Seen:
    value = {
        "id": name or f"id-{source}",
        "status": status,
        "source": {"topic": IN, "partition": 0, "offset": source},
        "output": {"type": "text", "text": text},
    }
    seen = Seen(OUT, 0, at, 2_000, b"k", json.dumps(value).encode(), {})
    return seen._replace(**changes)


def letter(of: Seen, **changes: Any) -> Seen:
    origin = {"topic": of.topic, "partition": str(of.partition), "offset": str(of.offset)}
    headers = {f"__connect.errors.{name}": text.encode() for name, text in origin.items()}
    return of._replace(topic=LETTERS, headers={**of.headers, **headers})._replace(**changes)


def verdict(
    mode: str, records: list[Seen], outcomes: list[Seen], letters: list[Seen], unsent: int = 0
) -> tuple[Verdict, set[str]]:
    places = {seen.place: seen for seen in records}
    acked = [*places, *((IN, 9, number) for number in range(unsent))]
    found = judge(mode, acked, places, outcomes, letters)
    return found, {problem.promise for problem in found.problems}


@pytest.fixture(params=["at_least_once", "exactly_once"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_one_right_outcome_for_every_record_keeps_the_promises(mode: str) -> None:
    poison = record(2, b"\xff", "poison-bytes")
    image = record(3, png(37), "image")
    label = json.loads(outcome(3, 3).value or b"") | {"output": {"type": "classification", "labels": [{"label": "7"}]}}
    outcomes = [outcome(1, 0), outcome(2, 1, "error"), outcome(3, 2, value=json.dumps(label).encode())]
    found, problems = verdict(mode, [record(1), poison, image], outcomes, [letter(poison)])
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
    assert verdict(mode, [poison], [outcome(1, 0, "error")], [changed])[1] == {"letters_missing"}


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
    outcomes, letters = [outcome(1, 0, "error"), outcome(2, 1)], [letter(poison), letter(poison), letter(good)]
    assert verdict("exactly_once", [poison, good], outcomes, letters)[1] == {"letters_repeated", "letters_stray"}
    assert verdict("at_least_once", [poison, good], outcomes, letters)[1] == set()
