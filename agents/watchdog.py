"""The watchdog: has a partition stood still while records pile up behind it?

A worker can hang without failing: a device that never answers, a thread that died, a consumer that fetches nothing. Its
heartbeats go on, so Kafka keeps its partitions with it. The watchdog sees that nothing of a partition settles, nor is
worked on, although there is more and more to do; the worker ends, so that its supervisor starts a new one.

Pure: the clock is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agents.ledger import Partition

__all__ = ["Progress", "Watchdog"]


class Progress(NamedTuple):
    """How far a partition is.

    Attributes:
        epoch: its assignment.
        settled: records settled under it.
        work: any number that changes while its records are being worked on, such as the steps of a long answer.
        end: the end of its log.
    """

    epoch: int
    settled: int
    work: int
    end: int


@dataclass(slots=True)
class _Mark:
    """The last progress seen, when, and where the log ended then."""

    progress: Progress
    at_s: float


class Watchdog:
    """Remembers when each partition last made progress.

    Args:
        timeout_s: how long a partition may stand still while its log grows.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._marks: dict[Partition, _Mark] = {}

    def observe(self, now_s: float, partitions: Mapping[Partition, Progress]) -> list[Partition]:
        """The partitions that have stood still for too long while their log grew.

        Args:
            now_s: monotonic clock.
            partitions: every assigned partition that has open records or lag.
        """
        self._marks = {name: mark for name, mark in self._marks.items() if name in partitions}
        return [name for name, progress in partitions.items() if self._stalled(now_s, name, progress)]

    def _stalled(self, now_s: float, name: Partition, progress: Progress) -> bool:
        mark = self._marks.get(name)
        if mark is None or mark.progress[:3] != progress[:3]:
            self._marks[name] = _Mark(progress, now_s)
            return False
        return now_s - mark.at_s >= self.timeout_s and progress.end > mark.progress.end
