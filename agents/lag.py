"""How far behind each partition is and whether it is held, for the metrics, and which stand still, for the watchdog."""

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
        metrics: gets the lag, and which partitions are held.
        timeout_s: how long a partition may stand still while its log grows.
        work: of a partition, a number that changes while its records are being worked on.
    """

    def __init__(self, ledger: Ledger, metrics: Metrics, *, timeout_s: float, work: Callable[[Partition], int]) -> None:
        self.timeout_s = timeout_s
        self._ledger = ledger
        self._lag, self._held = metrics.lag, metrics.held
        self._held_last: frozenset[Partition] = frozenset()
        self._work = work
        self._watchdog = Watchdog(timeout_s)

    def look(self, bounds: Mapping[Partition, tuple[int, int]], held: frozenset[Partition]) -> list[Partition]:
        """Report the lag of the partitions; those that have stood still for too long.

        Args:
            bounds: where each partition started under this assignment, and the end of its log.
            held: those whose start cannot be told yet, so that nothing is fetched of them.
        """
        self._report_held(bounds.keys(), held)
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
        """What there is to say of ``partitions`` is another worker's to report."""
        for partition in partitions:
            for gauge in (self._lag, self._held):
                with suppress(KeyError):  # it left before the first look
                    gauge.remove(*partition)

    def _report_held(self, known: Iterable[Partition], held: frozenset[Partition]) -> None:
        for partition in {*known, *held, *self._held_last}:
            if partition in self._ledger:
                self._held.labels(*partition).set(partition in held)
        self._held_last = held
