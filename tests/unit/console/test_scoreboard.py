from __future__ import annotations

import pytest

from console.arrivals import Arrival
from console.samples import Sample, chat_samples, service_samples, spread
from console.scoreboard import Answered, Score, percentile, summarise
from schemas.messages import Outcome

from .conftest import MakeOutcome


def answered(outcome: Outcome, *, accepted: tuple[str, ...] = (), sent: int = 0, came: int = 100) -> Answered:
    sample = Sample(
        name="s", kind="digits", task="image-classification", model="m", value=b"", accepted=frozenset(accepted)
    )
    return Answered(sample=sample, sent_at_ms=sent, arrival=Arrival(outcome=outcome, timestamp_ms=came))


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2.0), (0.95, 4.0), (0.25, 1.0), (1.0, 4.0)])
def test_percentiles_are_nearest_rank(share: float, expected: float) -> None:
    assert percentile([4, 1, 3, 2], share) == expected


def test_a_percentile_of_nothing_is_0() -> None:
    assert percentile([], 0.5) == 0.0


def test_accuracy_counts_only_samples_whose_labels_are_known(make_outcome: MakeOutcome) -> None:
    summary = summarise(
        3,
        [
            answered(make_outcome(label="Tabby, tabby cat"), accepted=("tabby cat",)),
            answered(make_outcome(label="dog"), accepted=("tabby",)),
            answered(make_outcome(label="whatever")),
        ],
    )
    assert (summary.accuracy, summary.scores) == (0.5, {"digits": Score(right=1, scored=2)})


def test_an_error_on_a_scored_sample_is_not_right(make_outcome: MakeOutcome) -> None:
    assert summarise(1, [answered(make_outcome(error="x"), accepted=("1",))]).accuracy == 0.0


def test_latency_and_rate_come_from_the_timestamps(make_outcome: MakeOutcome) -> None:
    summary = summarise(
        2,
        [
            answered(make_outcome(label="a"), sent=1_000, came=1_200),
            answered(make_outcome(label="a"), sent=1_100, came=3_000),
        ],
    )
    assert (summary.latency_p50_ms, summary.latency_p95_ms, summary.records_per_s) == (200.0, 1_900.0, 1.0)
    assert (summary.mean_batch_size, summary.precision) == (4.0, "int8")


def test_a_run_is_good_only_when_every_record_has_an_ok_outcome(make_outcome: MakeOutcome) -> None:
    ok, bad = answered(make_outcome(label="a")), answered(make_outcome(error="torn"))
    assert summarise(1, [ok]).good
    assert not summarise(2, [ok], ["lost"]).good
    summary = summarise(2, [ok, bad])
    assert not summary.good
    assert summary.errors == {"s": "torn"}


def test_spreading_mixes_the_kinds_and_loses_none() -> None:
    chat, service = chat_samples(), service_samples()[:3]
    mixed = spread(chat, service)
    assert sorted(s.name for s in mixed) == sorted(s.name for s in [*chat, *service])
    assert [mixed.index(sample) // 9 for sample in service] == [0, 1, 2]
