"""What runs next: candidates, a moment and limits in, a plan out. Pure: no clock, no I/O, no metrics.

The order is by priority, then deadline, then arrival. Waiting raises a candidate by one priority for each
``Limits.aging_ms``, so none starves. No candidate overtakes an earlier one with the same key: the earlier one goes in
its place. The plan never waits for a batch to fill: if anything can run, it runs.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Candidate", "Limits", "Plan", "plan_batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A prepared request as the planner sees it.

    Attributes:
        ticket: unique, and growing in order of arrival.
        weight: what it costs alone: tokens or pixels.
        priority: higher first, 0 to 9.
        arrived_ms: when it became ready, on the clock of ``now_ms``.
        deadline_ms: it is not worth running from this moment on.
        key: the record's key; ``None`` has no order.
    """

    ticket: int
    weight: int
    priority: int
    arrived_ms: float
    deadline_ms: float | None = None
    key: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one batch. Its padded weight is the heaviest member's weight times the number of members."""

    max_batch_size: int
    max_padded_weight: int | None = None
    aging_ms: float = 1_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Tickets to run now, in order of arrival, and tickets whose deadline has passed."""

    run: tuple[int, ...]
    expired: tuple[int, ...]


def plan_batch(candidates: Sequence[Candidate], now_ms: float, limits: Limits) -> Plan:
    """Choose the next batch.

    Args:
        candidates: everything that waits, in any order.
        now_ms: the moment, on the clock of the candidates.
        limits: the batch's bounds. One candidate always fits, however heavy.
    """
    expired = [item for item in candidates if item.deadline_ms is not None and item.deadline_ms <= now_ms]
    gone = {item.ticket for item in expired}
    alive = [item for item in candidates if item.ticket not in gone]
    if limits.max_batch_size < 1:
        return Plan(run=(), expired=_tickets(expired))
    chosen = _fill(_in_key_order(sorted(alive, key=lambda item: _rank(item, now_ms, limits.aging_ms))), limits)
    return Plan(run=_tickets(chosen), expired=_tickets(expired))


def _rank(item: Candidate, now_ms: float, aging_ms: float) -> tuple[float, float, int]:
    aged = item.priority + (now_ms - item.arrived_ms) // aging_ms
    deadline = math.inf if item.deadline_ms is None else item.deadline_ms
    return (-aged, deadline, item.ticket)


def _in_key_order(ranked: Sequence[Candidate]) -> Iterator[Candidate]:
    """``ranked``, with each candidate's place taken by the earliest one of its key that has not had a place."""
    lines: dict[bytes, deque[Candidate]] = defaultdict(deque)
    for item in sorted(ranked, key=lambda item: item.ticket):
        if item.key is not None:
            lines[item.key].append(item)
    for item in ranked:
        yield item if item.key is None else lines[item.key].popleft()


def _fill(ordered: Iterable[Candidate], limits: Limits) -> list[Candidate]:
    """The longest beginning of ``ordered`` that keeps the limits."""
    batch: list[Candidate] = []
    heaviest = 0
    for item in ordered:
        heaviest = max(heaviest, item.weight)
        too_heavy = limits.max_padded_weight is not None and heaviest * (len(batch) + 1) > limits.max_padded_weight
        if len(batch) >= limits.max_batch_size or (batch and too_heavy):
            break
        batch.append(item)
    return batch


def _tickets(items: Iterable[Candidate]) -> tuple[int, ...]:
    return tuple(sorted(item.ticket for item in items))
