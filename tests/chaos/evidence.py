"""Reads outcomes and dead letters by the words of docs/wire.md alone, and holds one of them against its record."""

from __future__ import annotations

import json
from typing import Any

from tests.chaos.records import KIND, expected_errors, expected_output
from tests.chaos.topics import Seen

__all__ = ["Place", "fits", "is_copy", "kind_of", "origin", "read_outcome"]

Place = tuple[str, int, int]
"""Topic, partition and offset: a record's name."""
LETTER = "__connect.errors."
UNREADABLE: dict[str, Any] = {"id": "", "status": "unreadable"}
SCORE_ERROR = 1e-5


def read_outcome(seen: Seen) -> tuple[Place, dict[str, Any]]:
    """The record that an outcome names, and the outcome; what cannot be read names itself."""
    try:
        outcome = json.loads(seen.value or b"")
        source = outcome["source"]
        place = str(source["topic"]), int(source["partition"]), int(source["offset"])
        return place, {**outcome, "id": outcome["id"], "status": outcome["status"]}
    except (ValueError, KeyError, TypeError):
        return seen.place, UNREADABLE


def origin(letter: Seen) -> Place:
    """The record that a dead letter names; itself where it names none."""
    try:
        topic, partition, offset = (letter.headers[LETTER + name] or b"" for name in ("topic", "partition", "offset"))
        return topic.decode(), int(partition), int(offset)
    except (ValueError, KeyError):
        return letter.place


def kind_of(record: Seen) -> str:
    """What kind the record says it is."""
    return (record.headers.get(KIND) or b"?").decode()


def fits(record: Seen, seen: Seen, outcome: dict[str, Any]) -> bool:
    """Whether an outcome is this record's. A good record may fail with a failing session; poison always does."""
    kind = kind_of(record)
    if seen.key != record.key or seen.topic != f"{record.topic}.results":
        return False
    match outcome["status"]:
        case "ok":
            expected = expected_output(kind, record.value)
            return expected is not None and _rounded(outcome.get("output")) == _rounded(expected)
        case "error":
            return outcome.get("error", {}).get("code") in expected_errors(kind) and "output" not in outcome
        case status:
            return status == "expired" and kind == "prompt-deadline" and "output" not in outcome


def _rounded(output: Any) -> Any:
    """``output`` with scores in steps of the error that float32 may make."""
    if not isinstance(output, dict) or "labels" not in output:
        return output
    labels = [(label["label"], round(label["score"] / SCORE_ERROR)) for label in output["labels"]]
    return {**output, "labels": labels}


def is_copy(record: Seen, letter: Seen) -> bool:
    """Whether a dead letter has the record's key, value and headers, unchanged."""
    headers = {name: value for name, value in letter.headers.items() if not name.startswith(LETTER)}
    return (letter.key, letter.value, headers) == (record.key, record.value, record.headers)
