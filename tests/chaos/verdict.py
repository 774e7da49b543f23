"""The verdict: what stands on the topics after a run, held against the promises. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from tests.chaos.evidence import Place, fits, is_copy, kind_of, origin, read_outcome
from tests.chaos.records import is_poison
from tests.chaos.topics import Seen

__all__ = ["Problem", "Verdict", "judge"]

ALWAYS = ("unsent", "lost", "shared", "wrong", "strays", "disordered", "letters_missing", "letters_altered")
PROMISES = {
    "at_least_once": (*ALWAYS, "unequal", "changed"),
    "exactly_once": (*ALWAYS, "repeated", "letters_repeated", "letters_stray"),
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
    not there (Kafka's own loss). ``repeated`` are outcomes beyond the first of their record; ``recalled`` of these were
    computed at the same moment as an earlier one, so they were not computed again. ``unequal`` are records whose
    outcomes have more than one id, ``changed`` those with more than one output, ``shared`` those whose outcome id is
    another record's, too; ``wrong`` outcomes do not fit their record, ``strays`` are of no record, ``disordered`` stand
    after one of the same key's later records; ``blamed`` are good records that failed. Dead letters are
    ``letters_missing`` where an error has none with the original bytes, ``letters_altered`` where they have other bytes
    than their record, ``letters_stray`` where there is no error.
    """

    sent: int
    acked: int
    unsent: int
    outcomes: int
    statuses: dict[str, int]
    lost: int
    repeated: int
    recalled: int
    unequal: int
    changed: int
    shared: int
    wrong: int
    strays: int
    disordered: int
    blamed: int
    letters: int
    letters_missing: int
    letters_altered: int
    letters_repeated: int
    letters_stray: int
    problems: list[Problem]


def judge(
    mode: str,
    acked: Iterable[Place],
    records: Mapping[Place, Seen],
    outcomes: Sequence[Seen],
    letters: Sequence[Seen],
    *,
    sound: bool = False,
) -> Verdict:
    """Hold the topics against the promises of ``mode``.

    Args:
        mode: the delivery mode.
        acked: what the producer was told that Kafka took.
        records: the input topics.
        outcomes: the result topics, each partition in order.
        letters: the dead letters.
        sound: no session failed but for poison, so no good record may have.
    """
    case = _Case(records, outcomes, letters)
    acked = set(acked)
    case.find("unsent", (place for place in acked if place not in records), lambda place: "acknowledged, then gone")
    case.check_outcomes()
    case.check_repeats()
    case.check_order()
    case.check_letters()
    broken = (*PROMISES[mode], "blamed") if sound else PROMISES[mode]
    return Verdict(
        sent=len(records),
        acked=len(acked),
        outcomes=len(outcomes),
        statuses=dict(case.statuses),
        letters=len(letters),
        problems=[problem for problem in case.problems if problem.promise in broken],
        **{name: case.counts[name] for name in {"blamed", "recalled"}.union(*PROMISES.values())},
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
            source, outcome = read_outcome(seen)
            self.outcomes[source].append((seen, outcome))
            self.statuses[outcome["status"]] += 1
        for letter in letters:
            self.letters[origin(letter)].append(letter)

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
        wrong = (p for p in outcomes if p in records for s, o in outcomes[p] if not fits(records[p], s, o))
        self.find("wrong", wrong, self._answers)
        self.find("strays", (place for place in outcomes if place not in records), self._answers)
        self.find("blamed", (p for p in records if self._is_blamed(p)), self._answers)

    def check_repeats(self) -> None:
        """One id for each record, of its own, and one output under it."""
        outcomes = self.outcomes
        self.find("repeated", (place for place in outcomes for _ in outcomes[place][1:]), self._answers)
        self.find("unequal", (place for place in outcomes if len(self._ids(place)) > 1), self._answers)
        answers = {place: [o["output"] for _, o in found if "output" in o] for place, found in outcomes.items()}
        self.find("changed", (p for p, found in answers.items() if any(a != found[0] for a in found)), self._answers)
        owners = Counter(name for place in outcomes for name in self._ids(place))
        self.find("shared", (p for p in outcomes if any(owners[name] > 1 for name in self._ids(p))), self._answers)
        moments = [[o["created_at_ms"] for _, o in found if "output" in o] for found in outcomes.values()]
        self.counts["recalled"] = sum(len(found) - len(set(found)) for found in moments)

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
        """Every error has a dead letter, all of them have the original bytes, and nothing else has one."""
        failed = {p for p, found in self.outcomes.items() for _, o in found if o["status"] == "error"}
        altered = {p for p, found in self.letters.items() for letter in found if not self._is_whole(p, letter)}
        self.find("letters_missing", failed - (self.letters.keys() - altered), self._answers)
        self.find("letters_altered", altered, lambda place: "a dead letter that is not its record")
        self.find("letters_repeated", (p for p, found in self.letters.items() for _ in found[1:]), self._answers)
        self.find("letters_stray", set(self.letters) - failed, lambda place: "a dead letter without an error outcome")

    def _is_whole(self, place: Place, letter: Seen) -> bool:
        return place in self.records and is_copy(self.records[place], letter)

    def _is_blamed(self, place: Place) -> bool:
        found = self.outcomes.get(place, ())
        return not is_poison(kind_of(self.records[place])) and any(o["status"] == "error" for _, o in found)

    def _ids(self, place: Place) -> set[str]:
        return {outcome["id"] for _, outcome in self.outcomes[place]}

    def _kind(self, place: Place) -> str:
        record = self.records[place]
        return f"{kind_of(record)}, key {record.key!r}, no outcome; {len(self.letters.get(place, ()))} dead letters"

    def _answers(self, place: Place) -> str:
        found = self.outcomes.get(place, ())
        return "; ".join(
            f"{s.topic}/{s.partition}@{s.offset} at {s.timestamp_ms}: {o['status']} {o['id'][:8]}" for s, o in found
        )
