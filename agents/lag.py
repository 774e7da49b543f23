"""How far behind each partition is, for the metrics, and whether one has stopped moving, for the watchdog."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from agents.watchdog import Progress, Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from agents.ledger import Ledger, Partition
    from pipeline.metrics import Metrics

__all__ = ["LagWatch"]


class LagWatch:
    """Looks at the assigned partitions now and then.

    Args:
        ledger: of the worker.
        metrics: gets the lag.
        timeout_s: how long a partition may stand still while its log grows.
        work: of a partition, a number that changes while its records are being worked on.
    """

    def __init__(self, ledger: Ledger, metrics: Metrics, *, timeout_s: float, work: Callable[[Partition], int]) -> None:
        self.timeout_s = timeout_s
        self._ledger = ledger
        self._lag = metrics.lag
        self._work = work
        self._watchdog = Watchdog(timeout_s)

    def look(self, bounds: Mapping[Partition, tuple[int, int]]) -> list[Partition]:
        """Report the lag of the partitions; those that have stood still for too long.

        Args:
            bounds: where each partition started under this assignment, and the end of its log.
        """
        behind: dict[Partition, Progress] = {}
        committable = self._ledger.committable()
        for partition, (start, end) in bounds.items():
            if (epoch := self._ledger.epoch(partition)) is None:
                continue
            lag = max(0, end - committable.get(partition, start))
            self._lag.labels(*partition).set(lag)
            if lag:
                behind[partition] = Progress(epoch, self._ledger.settled(partition), self._work(partition), end)
        return self._watchdog.observe(time.monotonic(), behind)

    def forget(self, partitions: Iterable[Partition]) -> None:
        """The lag of ``partitions`` is another worker's to report."""
        for partition in partitions:
            with suppress(KeyError):  # it left before the first look
                self._lag.remove(*partition)
