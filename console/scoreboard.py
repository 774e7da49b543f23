"""The demo's figures, computed from what was sent and what came back."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from console.arrivals import Arrival
from console.samples import Sample
from schemas.messages import ClassificationOutput, Outcome

__all__ = ["Answered", "ModelFigures", "Score", "Summary", "percentile", "summarise", "top_label"]


class Answered(Struct, frozen=True, kw_only=True):
    """A sample, the Kafka timestamp of its record, and its outcome."""

    sample: Sample
    sent_at_ms: int
    arrival: Arrival

    @property
    def latency_ms(self) -> int:
        """From the timestamp of the record to the timestamp of the outcome's record; waiting is part of it."""
        return self.arrival.timestamp_ms - self.sent_at_ms

    @property
    def right(self) -> bool:
        """Whether the best label is one of the accepted ones."""
        label = top_label(self.arrival.outcome)
        return label is not None and self.sample.is_right(label)


class Score(Struct, frozen=True, kw_only=True):
    """How many of the scored samples were right."""

    right: int
    scored: int


class ModelFigures(Struct, frozen=True, kw_only=True):
    """What one model did."""

    model: str
    precision: str
    provider: str
    outcomes: int
    mean_batch_size: float
    latency_p50_ms: float
    latency_p95_ms: float


class Summary(Struct, frozen=True, kw_only=True):
    """The document of ``millrace demo --json``.

    ``accuracy`` is over all samples whose right labels are known, ``null`` without any. ``mean_batch_size`` is over
    outcomes. Latency is from a record's Kafka timestamp to that of its outcome's record, nearest-rank percentiles;
    everything is sent at once, so it includes the waiting. ``records_per_s`` counts from the first record's timestamp
    to the last outcome's. ``scores`` is by kind of sample, ``models`` by model, ``missing`` the names of the samples
    that no outcome came for, ``errors`` what the outcomes that are not ok said.
    """

    records_in: int
    outcomes: int
    ok: int
    error: int
    expired: int
    accuracy: float | None
    precision: str
    mean_batch_size: float
    latency_p50_ms: float
    latency_p95_ms: float
    records_per_s: float
    completion_tokens: int
    scores: dict[str, Score]
    models: list[ModelFigures]
    missing: list[str]
    errors: dict[str, str]

    @property
    def good(self) -> bool:
        """Whether every record has an outcome and all are ok."""
        return self.records_in == self.outcomes == self.ok and not self.missing


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: the smallest value that at least ``share`` of them do not exceed; 0 of nothing."""
    ordered = sorted(values)
    return float(ordered[max(0, math.ceil(share * len(ordered)) - 1)]) if ordered else 0.0


def top_label(outcome: Outcome) -> str | None:
    """The likeliest class, if there is one."""
    output = outcome.output
    return output.labels[0].label if isinstance(output, ClassificationOutput) and output.labels else None


def summarise(records_in: int, answered: Sequence[Answered], missing: Sequence[str] = ()) -> Summary:
    """The figures of a run of ``records_in`` delivered records; ``missing`` names those without an outcome."""
    outcomes = [answer.arrival.outcome for answer in answered]
    counts = {status: sum(o.status == status for o in outcomes) for status in ("ok", "error", "expired")}
    scores = _scores(answered)
    models = _models(answered)
    latencies = [float(answer.latency_ms) for answer in answered]
    return Summary(
        records_in=records_in,
        outcomes=len(outcomes),
        ok=counts["ok"],
        error=counts["error"],
        expired=counts["expired"],
        accuracy=_accuracy(scores),
        precision=", ".join(sorted({figures.precision for figures in models})),
        mean_batch_size=_mean([outcome.batch_size for outcome in outcomes if outcome.status == "ok"]),
        latency_p50_ms=percentile(latencies, 0.50),
        latency_p95_ms=percentile(latencies, 0.95),
        records_per_s=_rate(answered),
        completion_tokens=sum(outcome.usage.completion_tokens for outcome in outcomes if outcome.usage),
        scores=scores,
        models=models,
        missing=sorted(missing),
        errors={a.sample.name: a.arrival.outcome.error.message for a in answered if a.arrival.outcome.error},
    )


def _scores(answered: Sequence[Answered]) -> dict[str, Score]:
    scored = [answer for answer in answered if answer.sample.accepted]
    kinds = sorted({answer.sample.kind for answer in scored})
    return {
        kind: Score(
            right=sum(a.right for a in scored if a.sample.kind == kind),
            scored=sum(a.sample.kind == kind for a in scored),
        )
        for kind in kinds
    }


def _accuracy(scores: dict[str, Score]) -> float | None:
    scored = sum(score.scored for score in scores.values())
    return round(sum(score.right for score in scores.values()) / scored, 4) if scored else None


def _models(answered: Sequence[Answered]) -> list[ModelFigures]:
    by_model: dict[tuple[str, str, str], list[Answered]] = {}
    for answer in answered:
        if (info := answer.arrival.outcome.model) and answer.arrival.outcome.status == "ok":
            by_model.setdefault((info.name, info.precision, info.provider), []).append(answer)
    return [_model_figures(*names, answers) for names, answers in sorted(by_model.items())]


def _model_figures(model: str, precision: str, provider: str, answers: Sequence[Answered]) -> ModelFigures:
    latencies = [float(answer.latency_ms) for answer in answers]
    return ModelFigures(
        model=model,
        precision=precision,
        provider=provider,
        outcomes=len(answers),
        mean_batch_size=_mean([answer.arrival.outcome.batch_size for answer in answers]),
        latency_p50_ms=percentile(latencies, 0.50),
        latency_p95_ms=percentile(latencies, 0.95),
    )


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 2) if values else 0.0


def _rate(answered: Sequence[Answered]) -> float:
    if not answered:
        return 0.0
    first = min(answer.sent_at_ms for answer in answered)
    last = max(answer.arrival.timestamp_ms for answer in answered)
    return round(len(answered) / max(0.001, (last - first) / 1_000), 2)
