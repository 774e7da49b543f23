"""The ledger: which records have a delivered outcome, and the offset each partition may commit.

A record's entry is opened when it is fetched and settled when nothing of it is left to do but the commit: its outcome
is delivered, or, exactly once, held for the transaction that commits it. Entries settle in any order; the committable
offset of a partition only moves over an unbroken prefix of settled ones, so a commit never passes a record that has no
outcome yet. Offsets that the broker never delivered (compaction, transaction markers) are no entries
and hold nothing up.

Each assignment of a partition has an epoch. A settlement that carries an older epoch comes from before the partition
was given up, and is ignored.

Pure: no clock, no I/O, no locks. It lives on the event loop.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Ledger", "Partition", "PartitionLedger"]


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    number: int


class PartitionLedger:
    """The entries of one partition during one assignment."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.committed: int | None = None
        self.settled = 0
        self._open: deque[int] = deque()
        self._settled: set[int] = set()
        self._next: int | None = None

    @property
    def unsettled(self) -> int:
        """Entries that are not settled."""
        return len(self._open) - len(self._settled)

    @property
    def committable(self) -> int | None:
        """The offset to commit: the first that is not settled. ``None`` before the first entry."""
        return self._open[0] if self._open else self._next

    def rewinds(self, offset: int) -> bool:
        """Whether ``offset`` lies below the next one."""
        return self._next is not None and offset < self._next

    def open(self, offsets: Iterable[int]) -> None:
        """Open entries for ``offsets``, which ascend and lie above all earlier ones.

        Raises:
            ValueError: an offset is not above the last one opened.
        """
        for offset in offsets:
            if self.rewinds(offset):
                raise ValueError(f"offset {offset} was fetched again or late. This is a bug.")
            if self._next is None:
                self.committed = offset  # the group begins here, whether it says so or not
            self._open.append(offset)
            self._next = offset + 1

    def settle(self, offset: int) -> None:
        """Note that nothing of ``offset`` is left to do but the commit.

        Raises:
            ValueError: the offset has no open entry.
        """
        if offset in self._settled or not self._open or not self._open[0] <= offset < (self._next or 0):
            raise ValueError(f"offset {offset} has no open entry to settle. This is a bug.")
        self._settled.add(offset)
        self.settled += 1
        while self._open and self._open[0] in self._settled:
            self._settled.discard(self._open.popleft())


class Ledger:
    """The partitions assigned to this worker."""

    def __init__(self) -> None:
        self._partitions: dict[Partition, PartitionLedger] = {}
        self._epoch = 0

    def __contains__(self, partition: Partition) -> bool:
        """Whether ``partition`` is assigned."""
        return partition in self._partitions

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Start a new epoch for each of ``partitions``; what is known of them from before is dropped."""
        for partition in partitions:
            self._epoch += 1
            self._partitions[partition] = PartitionLedger(self._epoch)

    def revoke(self, partitions: Iterable[Partition]) -> None:
        """Forget ``partitions``; later settlements for them are ignored."""
        for partition in partitions:
            self._partitions.pop(partition, None)

    def epoch(self, partition: Partition) -> int | None:
        """The epoch of the partition's current assignment, ``None`` when it is not assigned."""
        entry = self._partitions.get(partition)
        return None if entry is None else entry.epoch

    def rewinds(self, partition: Partition, offset: int) -> bool:
        """Whether ``offset`` lies below what was fetched already: the topic was truncated or made anew."""
        return self._partitions[partition].rewinds(offset)

    def open(self, partition: Partition, offsets: Iterable[int]) -> int:
        """Open entries; returns the epoch that settlements must carry. Raises KeyError when not assigned."""
        entry = self._partitions[partition]
        entry.open(offsets)
        return entry.epoch

    def settle(self, partition: Partition, epoch: int, offset: int) -> bool:
        """Settle one entry. Returns False, changing nothing, when the partition has been given up since."""
        entry = self._partitions.get(partition)
        if entry is None or entry.epoch != epoch:
            return False
        entry.settle(offset)
        return True

    def unsettled(self, partitions: Iterable[Partition] | None = None) -> int:
        """Records that are not settled, in ``partitions`` (all when ``None``)."""
        names = self._partitions if partitions is None else partitions
        return sum(self._partitions[name].unsettled for name in names if name in self._partitions)

    def commits(self, partitions: Iterable[Partition] | None = None) -> dict[Partition, int]:
        """The offsets that may be committed and are not yet, by partition."""
        names = self._partitions if partitions is None else partitions
        found = {}
        for name in names:
            entry = self._partitions.get(name)
            if entry is not None and entry.committable is not None and entry.committable != entry.committed:
                found[name] = entry.committable
        return found

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Note that ``offsets`` are committed."""
        for partition, offset in offsets.items():
            if (entry := self._partitions.get(partition)) is not None:
                entry.committed = offset

    def settled(self, partition: Partition) -> int:
        """Records settled since ``partition`` was assigned. Raises KeyError when it is not."""
        return self._partitions[partition].settled

    def committable(self) -> dict[Partition, int]:
        """The first offset that is not settled, of each partition that has had a record."""
        entries = self._partitions.items()
        return {name: entry.committable for name, entry in entries if entry.committable is not None}
