"""What the metrics tell of the partitions that a worker has: how far behind they are, and which are held."""

from __future__ import annotations

import pytest

from agents.lag import LagWatch
from agents.ledger import Ledger, Partition
from pipeline.metrics import Metrics

P0, P1 = (Partition("inference.prompts", number) for number in (0, 1))


class Watched:
    """A worker's ledger with both partitions, and its metrics."""

    def __init__(self) -> None:
        self.metrics, ledger = Metrics(), Ledger()
        ledger.assign([P0, P1])
        self.lag = LagWatch(ledger, self.metrics, timeout_s=60, work=lambda _: 0)

    def value(self, name: str, partition: Partition) -> float | None:
        labels = dict(zip(("topic", "partition"), map(str, partition), strict=True))
        return self.metrics.registry.get_sample_value(name, labels)

    def held(self) -> list[float | None]:
        return [self.value("millrace_partition_held", partition) for partition in (P0, P1)]


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_the_lag_is_that_behind_the_end_of_the_log(watched: Watched) -> None:
    watched.lag.look({P0: (5, 12), P1: (3, 3)}, frozenset())
    assert [watched.value("millrace_lag_records", partition) for partition in (P0, P1)] == [7, 0]


def test_a_partition_whose_beginning_a_transaction_holds_is_told_until_it_is_read(watched: Watched) -> None:
    watched.lag.look({P0: (0, 5)}, frozenset({P1}))
    assert watched.held() == [0, 1]
    assert watched.value("millrace_lag_records", P1) is None
    watched.lag.look({P0: (0, 5)}, frozenset())  # it is read now, and nobody has told its end yet
    assert watched.held() == [0, 0]
    watched.lag.look({P0: (0, 5), P1: (2, 5)}, frozenset())
    assert watched.held() == [0, 0]


def test_a_partition_that_goes_takes_what_is_told_of_it_along(watched: Watched) -> None:
    watched.lag.look({P0: (0, 5)}, frozenset({P1}))
    watched.lag.forget([P0, P1])
    assert watched.held() == [None, None]
    assert watched.value("millrace_lag_records", P0) is None
    watched.lag.forget([P0, P1])


def test_a_partition_that_went_while_its_report_was_under_way_is_not_told(watched: Watched) -> None:
    elsewhere = Partition("inference.prompts", 2)
    watched.lag.look({}, frozenset({elsewhere}))
    assert watched.value("millrace_partition_held", elsewhere) is None
