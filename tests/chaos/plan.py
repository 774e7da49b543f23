"""What to run, and the workers' settings that follow from it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from pipeline.settings import BatchingSettings, KafkaSettings, Settings, WorkerSettings
from tests.chaos.brokers import SESSION_TIMEOUT_S
from tests.chaos.faults import FAULTS, Need

__all__ = ["MODES", "Plan", "chaos_settings"]

MODES = ("at_least_once", "exactly_once")
FAILING = {"failing_session", "session_hiccup"}


class Plan(Struct, frozen=True, kw_only=True):
    """What to run: seconds of faults and records a second under each mode, the seed, which faults, how many workers.

    ``static_members`` gives every worker a ``group.instance.id`` that its replacement keeps. ``debug`` are contexts of
    librdkafka's own log, such as ``cgrp,topic``; they go to the workers' logs.
    """

    seconds: float
    seed: int
    rate: float = 250.0
    modes: tuple[str, ...] = MODES
    kinds: tuple[str, ...] = tuple(FAULTS)
    workers: int = 3
    brokers: int = 3
    group_protocol: Literal["classic", "consumer"] = "classic"
    static_members: bool = False
    debug: str = ""

    @property
    def possible(self) -> tuple[str, ...]:
        """Those of ``kinds`` that this run has what they need for."""
        there = {need for need, has in self._needs().items() if has}
        return tuple(kind for kind in self.kinds if FAULTS[kind].needs <= there)

    @property
    def sound(self) -> bool:
        """Whether no session is made to fail."""
        return FAILING.isdisjoint(self.possible)

    def _needs(self) -> dict[Need, bool]:
        return {"three brokers": self.brokers == 3, "static members": self.static_members}


def chaos_settings(plan: Plan, mode: str, bootstrap_servers: str) -> Settings:
    """Settings of the workers: as short timeouts as Kafka allows, so that a run sees many of them pass."""
    return Settings(
        kafka=KafkaSettings(
            bootstrap_servers=bootstrap_servers,
            topic_prefix=f"chaos.{mode}.",
            group_id=f"chaos.{mode}",
            group_protocol=plan.group_protocol,
            replication_factor=plan.brokers,
            session_timeout_s=SESSION_TIMEOUT_S,
            transaction_timeout_s=10,
            client={"debug": plan.debug} if plan.debug else {},
        ),
        worker=WorkerSettings(delivery=mode, drain_timeout_s=10),  # type: ignore[arg-type]
        batching=BatchingSettings(max_length=64),
    )
