"""A chaos worker: the real worker of :mod:`agents.worker` in a process of its own, only its model is a fake.

Besides the faults of its control file it writes a log that tells of assignments, commits and transactions.
"""

from __future__ import annotations

import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
from confluent_kafka import TopicPartition
from msgspec import Struct

import agents.app
import agents.worker
from agents.delivery import Delivery
from agents.library_log import LIBRARY_LOG
from agents.transactions import Transactions
from agents.transport.poller import Poller
from pipeline.engine import Engine
from pipeline.errors import MillraceError
from pipeline.runtime.fakes import FakeBackend, fake_classifier, fake_generator
from pipeline.settings import Settings
from tests.chaos.control import Obedience
from tests.chaos.counters import snapshot

__all__ = ["Order", "serve"]

LOG = logging.getLogger("chaos.worker")
COUNT_S = 0.5


class Order(Struct, frozen=True, kw_only=True):
    """What one worker is started with: its name, the folder of its files, its settings."""

    name: str
    folder: str
    settings: Settings

    @property
    def control(self) -> Path:
        """Its control file, which must be there."""
        return Path(self.folder, f"{self.name}.control")

    @property
    def log(self) -> Path:
        """Where it writes."""
        return Path(self.folder, f"{self.name}.log")

    @property
    def counters(self) -> Path:
        """Where it keeps what it has counted."""
        return Path(self.folder, f"{self.name}.counters")


def serve(order: Order) -> int:
    """Be the worker; the exit code. Standard output and error are the log file already."""
    obedience = Obedience(order.control)
    _log_to_stderr(obedience)
    if "debug" in order.settings.kafka.client:
        LIBRARY_LOG.setLevel(logging.DEBUG)
    obedience.begin()
    random.seed()  # or every fork draws the same
    _trace()
    # A folder of its own: a model's files must not be written anew while another worker reads them.
    folder = Path(order.folder, f"{order.name}.models")
    folder.mkdir(exist_ok=True)
    models = [fake_generator(folder), fake_classifier(folder)]
    backend = FakeBackend(fault=obedience.fault)

    def create_app(settings: Settings) -> agents.app.InferenceApp:
        engine = Engine(settings, models, backend=backend)
        threading.Thread(target=_keep_counters, args=(engine, order.counters), daemon=True).start()
        return agents.app.create_app(settings, engine)

    try:
        with patch.object(agents.worker, "create_app", create_app):
            return agents.worker.run(order.settings)
    except MillraceError as error:
        LOG.error("%s: %s", type(error).__name__, error)  # noqa: TRY400 - as the command prints it
        return 1
    except KeyboardInterrupt:  # before it had handlers of its own; the command ends so, too
        return 1


def _keep_counters(engine: Engine, file: Path) -> None:
    partial = file.with_suffix(".partial-counters")
    while True:
        partial.write_bytes(msgspec.json.encode(snapshot(engine.metrics.registry)))
        partial.replace(file)
        time.sleep(COUNT_S)


def _log_to_stderr(obedience: Obedience) -> None:
    class Formatter(logging.Formatter):
        def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
            return f"{obedience.real_time() * 1_000:.0f}"

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _trace() -> None:
    """Log what matters when a record is lost or repeated."""
    for owner, name, words in (
        (Delivery, "on_assigned", _words),
        (Delivery, "on_revoked", _words),
        (Delivery, "on_lost", _words),
        (Poller, "commit", _positions),
        (Poller, "_place", _starts),
    ):
        setattr(owner, name, _logged(getattr(owner, name), name, words))
    run = Transactions.run

    def traced(self: Any, records: Sequence[Any], offsets: Mapping[Any, int], metadata: Any) -> None:
        LOG.info("begin %d records to %s, as %r", len(records), _positions(offsets), metadata)
        try:
            run(self, records, offsets, metadata)
        except BaseException as error:
            LOG.info("transaction of %d records to %s: %r", len(records), _positions(offsets), error)
            raise
        LOG.info("transaction of %d records to %s: committed", len(records), _positions(offsets))

    Transactions.run = traced  # type: ignore[method-assign]


def _logged(function: Callable[..., Any], name: str, words: Callable[[Any], str]) -> Callable[..., Any]:
    @wraps(function)
    def logged(self: Any, first: Any, *rest: Any) -> Any:
        LOG.info("%s %s", name, words(first))
        result = function(self, first, *rest)
        if isinstance(result, Mapping):
            LOG.info("%s: %s", name, _positions(result))
        return result

    return logged


def _words(partitions: Sequence[Any]) -> str:
    return " ".join(f"{topic.rpartition('.')[2]}/{number}" for topic, number in partitions) or "nothing"


def _positions(offsets: Mapping[Any, int]) -> str:
    return " ".join(f"{topic.rpartition('.')[2]}/{number}@{offset}" for (topic, number), offset in offsets.items())


def _starts(starts: Sequence[TopicPartition]) -> str:
    return _positions({(tp.topic, tp.partition): tp.offset for tp in starts}) or "nothing"


def read_order(line: bytes) -> Order:
    """The order in a line of JSON."""
    return msgspec.json.decode(line, type=Order)
