"""A bounded stretch of a topic, read once and decoded: what models are calibrated and measured on.

No group is joined and nothing is committed. The end is fixed before the first record is read, so a topic that grows
meanwhile does not make the stretch longer.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from msgspec import Struct

from agents.clients import Tailer
from agents.ledger import Partition
from pipeline.errors import TransportError
from schemas.codecs import Decoder
from schemas.errors import RecordError
from schemas.messages import InferenceRequest
from schemas.records import RawRecord

__all__ = ["PREFIX", "Stretch", "StretchRead", "parse_stretch", "read_stretch"]

PREFIX = "kafka:"
PATTERN = re.compile(r"kafka:(?P<topic>[\w.-]{1,249})(/(?P<partition>\d+))?(:(?P<first>\d*)-(?P<last>\d*))?")
MAX_RECORDS = 10_000
READ_TIMEOUT_S = 10.0


class Stretch(Struct, frozen=True, kw_only=True):
    """Records of a topic.

    Attributes:
        partition: ``None`` for all of them.
        first: the first offset; ``None`` is the beginning.
        last: the last offset, itself included; ``None`` is the end as it is now.
    """

    topic: str
    partition: int | None = None
    first: int | None = None
    last: int | None = None

    def __str__(self) -> str:
        """As it is written on the command line."""
        partition = "" if self.partition is None else f"/{self.partition}"
        ends = "" if (self.first, self.last) == (None, None) else f":{_text(self.first)}-{_text(self.last)}"
        return f"{PREFIX}{self.topic}{partition}{ends}"


class StretchRead(Struct, frozen=True, kw_only=True):
    """What was read.

    Attributes:
        requests: the records that are requests, in order within a partition.
        skipped: how many are not.
        first_error: what was wrong with the first of these, and where.
    """

    requests: tuple[InferenceRequest, ...]
    skipped: int = 0
    first_error: str = ""


def parse_stretch(text: str) -> Stretch:
    """``kafka:TOPIC[/PARTITION][:FROM-TO]``; either end may be left out. Raises TransportError."""
    found = PATTERN.fullmatch(text)
    if found is None:
        raise TransportError(
            f"{text}: not a stretch of a topic. Write kafka:TOPIC, kafka:TOPIC/PARTITION, or either with offsets, as "
            "kafka:inference.images/0:1000-1999."
        )
    first, last = (int(found[end]) if found[end] else None for end in ("first", "last"))
    if first is not None and last is not None and last < first:
        raise TransportError(f"{text}: it ends before it begins. Write the smaller offset first.")
    partition = int(found["partition"]) if found["partition"] else None
    return Stretch(topic=found["topic"], partition=partition, first=first, last=last)


def read_stretch(stretch: Stretch, tailer: Tailer, decoder: Decoder, *, max_records: int = MAX_RECORDS) -> StretchRead:
    """Read and decode a stretch.

    Args:
        stretch: what to read.
        tailer: of the stretch's topic.
        decoder: of the topic's kind.
        max_records: the most that is read, from the beginning of each partition on.

    Raises:
        TransportError: there is no such partition, the stretch is empty or holds no request, or Kafka does not answer.
    """
    bounds = _bounds(stretch, tailer)
    tailer.seek({place: first for place, (first, _end) in bounds.items()})
    ends = {place: end for place, (_first, end) in bounds.items()}
    read = _decode(itertools.islice(_records(stretch, tailer, ends), max_records), decoder)
    if not read.requests:
        raise TransportError(
            f"{stretch}: none of its {read.skipped} records is a request; the first: {read.first_error}"
        )
    return read


def _bounds(stretch: Stretch, tailer: Tailer) -> dict[Partition, tuple[int, int]]:
    """The first offset and the end (one more than the last) to read, of each partition that has any there."""
    there = {place: ends for place, ends in tailer.bounds.items() if stretch.partition in (None, place.number)}
    if not there:
        numbers = ", ".join(str(place.number) for place in tailer.bounds)
        raise TransportError(f"{stretch}: the topic has no such partition, only {numbers}.")
    wanted = {
        place: (max(low, stretch.first or 0), high if stretch.last is None else min(high, stretch.last + 1))
        for place, (low, high) in there.items()
    }
    found = {place: ends for place, ends in wanted.items() if ends[0] < ends[1]}
    if not found:
        here = [f"{place.number}:{low}-{high - 1}" for place, (low, high) in there.items() if low < high]
        raise TransportError(f"{stretch}: no record is there. The topic holds {', '.join(here) or 'none at all'}.")
    return found


def _records(stretch: Stretch, tailer: Tailer, ends: dict[Partition, int]) -> Iterator[RawRecord]:
    """The records before ``ends``. Compaction and transactions leave gaps, so a topic read to its end ends it too."""
    left = set(ends)
    while left:
        records = tailer.read(READ_TIMEOUT_S)
        for record in records:
            place = Partition(record.topic, record.partition)
            if record.offset + 1 >= ends[place]:
                left.discard(place)
            if record.offset < ends[place]:
                yield record
        if tailer.caught_up():
            return
        if not records:
            raise TransportError(f"{stretch}: Kafka gave no record for {READ_TIMEOUT_S:g} s. Try again.")


def _decode(records: Iterator[RawRecord], decoder: Decoder) -> StretchRead:
    requests, errors = [], []
    for record in records:
        try:
            requests.append(decoder.decode(record))
        except RecordError as error:
            errors.append(f"{record.name}, {error.where}: {error.message}")
    return StretchRead(requests=tuple(requests), skipped=len(errors), first_error=errors[0] if errors else "")


def _text(offset: int | None) -> str:
    return "" if offset is None else str(offset)
