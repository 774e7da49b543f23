"""The verdict: what stands on the topics after a run, held against the promises. Pure."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from tests.chaos.records import KIND, expected_answer, is_poison
from tests.chaos.topics import Seen

__all__ = ["Problem", "Verdict", "judge"]

Place = tuple[str, int, int]
LETTER = "__connect.errors."
PROMISES = {
    "at_least_once": ("unsent", "lost", "unequal", "wrong", "strays", "disordered", "letters_missing"),
    "exactly_once": (
        *("unsent", "lost", "repeated", "wrong", "strays", "disordered"),
        *("letters_missing", "letters_repeated", "letters_stray"),
    ),
}
"""By delivery mode, the counts that must be 0."""


class Problem(Struct, frozen=True):
    """One broken promise: which, of which record, when (milliseconds since the epoch), and what was seen."""

    promise: str
    place: Place
    at_ms: int
    seen: str


class Verdict(Struct, frozen=True, kw_only=True):
    """Counts of a run.

    ``sent`` are the records on the input topics, ``acked`` those that the producer was told of; ``unsent`` of these are
    not there (Kafka's own loss). ``repeated`` are outcomes beyond the first of their record, ``unequal`` records whose
    outcomes have more than one id, ``wrong`` outcomes that do not fit their record, ``strays`` outcomes of no record,
    ``disordered`` outcomes that stand after one of the same key's later records. Dead letters are ``letters_missing``
    where an error has none with the original bytes, ``letters_stray`` where there is no error.
    """

    sent: int
    acked: int
    unsent: int
    outcomes: int
    statuses: dict[str, int]
    lost: int
    repeated: int
    unequal: int
    wrong: int
    strays: int
    disordered: int
    letters: int
    letters_missing: int
    letters_repeated: int
    letters_stray: int
    problems: list[Problem]


def judge(
    mode: str,
    acked: Iterable[Place],
    records: Mapping[Place, Seen],
    outcomes: Sequence[Seen],
    letters: Sequence[Seen],
) -> Verdict:
    """Hold the topics against the promises of ``mode``.

    Args:
        mode: the delivery mode.
        acked: what the producer was told that Kafka took.
        records: the input topics.
        outcomes: the result topics, each partition in order.
        letters: the dead letters.
    """
    case = _Case(records, outcomes, letters)
    acked = set(acked)
    case.find("unsent", (place for place in acked if place not in records), lambda place: "acknowledged, then gone")
    case.check_outcomes()
    case.check_order()
    case.check_letters()
    broken = PROMISES[mode]
    return Verdict(
        sent=len(records),
        acked=len(acked),
        outcomes=len(outcomes),
        statuses=dict(case.statuses),
        letters=len(letters),
        problems=[problem for problem in case.problems if problem.promise in broken],
        **{name: case.counts[name] for name in {name for names in PROMISES.values() for name in names}},
    )


class _Case:
    """The evidence, indexed by record, and what is found wrong."""

    def __init__(self, records: Mapping[Place, Seen], outcomes: Sequence[Seen], letters: Sequence[Seen]) -> None:
        self.records = records
        self.counts: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.problems: list[Problem] = []
        self.outcomes: defaultdict[Place, list[tuple[Seen, dict[str, Any]]]] = defaultdict(list)
        self.letters: defaultdict[Place, list[Seen]] = defaultdict(list)
        for seen in outcomes:
            outcome = json.loads(seen.value or b"{}")
            source = outcome["source"]
            self.outcomes[source["topic"], source["partition"], source["offset"]].append((seen, outcome))
            self.statuses[outcome["status"]] += 1
        for letter in letters:
            self.letters[_origin(letter)].append(letter)

    def find(self, promise: str, places: Iterable[Place], words: Any) -> None:
        """Count ``places`` against ``promise``."""
        for place in places:
            self.counts[promise] += 1
            record = self.records.get(place)
            at_ms = (
                record.timestamp_ms if record else next((s.timestamp_ms for s, _ in self.outcomes.get(place, ())), 0)
            )
            self.problems.append(Problem(promise, place, at_ms, words(place)))

    def check_outcomes(self) -> None:
        """One outcome for every record, the right one, and none for anything else."""
        records, outcomes = self.records, self.outcomes
        self.find("lost", (place for place in records if not outcomes.get(place)), self._kind)
        extra = (place for place in outcomes for _ in outcomes[place][1:])
        self.find("repeated", extra, self._answers)
        unequal = (place for place, found in outcomes.items() if len({o["id"] for _, o in found}) > 1)
        self.find("unequal", unequal, self._answers)
        wrong = (p for p in outcomes if p in records for s, o in outcomes[p] if not _fits(records[p], s, o))
        self.find("wrong", wrong, self._answers)
        self.find("strays", (place for place in outcomes if place not in records), self._answers)

    def check_order(self) -> None:
        """The first outcomes of one key's records stand in the order of the records."""
        last: dict[tuple[str, int, bytes], Place] = {}
        firsts = sorted((found[0][0].place, place) for place, found in self.outcomes.items() if found)
        disordered = []
        for _, place in firsts:
            record = self.records.get(place)
            if record is None or record.key is None:
                continue
            name = (record.topic, record.partition, record.key)
            if last.get(name, place) > place:
                disordered.append(place)
            last[name] = max(place, last.get(name, place))
        self.find("disordered", disordered, self._answers)

    def check_letters(self) -> None:
        """Every error has a dead letter with the original bytes, and nothing else has one."""
        failed = {p for p, found in self.outcomes.items() for _, o in found if o["status"] == "error"}
        whole = {p for p, found in self.letters.items() if p in self.records and _same(self.records[p], found)}
        self.find("letters_missing", failed - whole, self._answers)
        self.find("letters_repeated", (p for p, found in self.letters.items() for _ in found[1:]), self._answers)
        self.find("letters_stray", set(self.letters) - failed, lambda place: "a dead letter without an error outcome")

    def _kind(self, place: Place) -> str:
        record = self.records[place]
        return f"{_kind(record)}, key {record.key!r}, no outcome; {len(self.letters.get(place, ()))} dead letters"

    def _answers(self, place: Place) -> str:
        found = self.outcomes.get(place, ())
        return "; ".join(
            f"{s.topic}/{s.partition}@{s.offset} at {s.timestamp_ms}: {o['status']} {o['id'][:8]}" for s, o in found
        )


def _kind(record: Seen) -> str:
    return (record.headers.get(KIND) or b"?").decode()


def _fits(record: Seen, seen: Seen, outcome: dict[str, Any]) -> bool:
    """Whether an outcome is this record's. A good record may fail with a failing session; poison always does."""
    kind, status = _kind(record), outcome["status"]
    if seen.key != record.key:
        return False
    if status == "ok":
        output = outcome["output"]
        answer = output["text"] if output["type"] == "text" else output["labels"][0]["label"]
        return not is_poison(kind) and answer == expected_answer(kind, record.value)
    return status == "error" or (status == "expired" and kind == "prompt-deadline")


def _origin(letter: Seen) -> Place:
    topic, partition, offset = (letter.headers[LETTER + name] or b"" for name in ("topic", "partition", "offset"))
    return topic.decode(), int(partition), int(offset)


def _same(record: Seen, letters: Iterable[Seen]) -> bool:
    """Whether all of the dead letters have the record's key, value and headers."""
    return all(
        letter.key == record.key
        and letter.value == record.value
        and {name: value for name, value in letter.headers.items() if not name.startswith(LETTER)} == record.headers
        for letter in letters
    )
