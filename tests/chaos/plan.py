"""What to run, and the workers' settings that follow from it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from msgspec import Struct

from pipeline.settings import BatchingSettings, KafkaSettings, ResultSettings, Settings, WorkerSettings
from tests.chaos.brokers import SESSION_TIMEOUT_S
from tests.chaos.disk import SIZE_BYTES
from tests.chaos.faults import FAULTS, Need

__all__ = ["MODES", "Plan", "chaos_settings"]

MODES = ("at_least_once", "exactly_once")
FAILING = {"failing_session", "session_hiccup"}


class Plan(Struct, frozen=True, kw_only=True):
    """What to run: seconds of faults and records a second under each mode, the seed, which faults, how many workers.

    ``static_members`` gives every worker a ``group.instance.id`` that its replacement keeps, ``store`` all of them one
    result store. ``debug`` are contexts of librdkafka's own log, such as ``cgrp,topic``; they go to the workers' logs.
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
    store: bool = True
    debug: str = ""

    @property
    def sound(self) -> bool:
        """Whether no session is made to fail."""
        return FAILING.isdisjoint(self.kinds)

    def skipped(self, disk_refused: str = "") -> dict[str, str]:
        """Those of ``kinds`` that this run cannot have, and why; ``disk_refused`` says why there is no small disk."""
        missing: dict[Need, str] = {}
        if self.brokers != 3:
            missing["three brokers"] = f"there is {self.brokers} broker"
        if not self.static_members:
            missing["static members"] = "no static members"
        if not self.store or disk_refused:
            missing["a small disk"] = f"no disk of its own: {disk_refused}" if self.store else "no result store"
        return {kind: missing[need] for kind in self.kinds for need in FAULTS[kind].needs if need in missing}


def chaos_settings(plan: Plan, mode: str, bootstrap_servers: str, results: Path | None = None) -> Settings:
    """Settings of the workers: as short timeouts as Kafka allows, so that a run sees many of them pass.

    ``results`` is the folder of the result store.
    """
    store = f"sqlite:{results / f'{mode}.db'}" if results and plan.store else ""
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
        results=ResultSettings(store=store, max_bytes=SIZE_BYTES // 2),
    )
