"""The Faust app of a worker: ``millrace worker`` runs it, and so does ``faust -A agents.app worker``.

One agent for prompts and one for images take batches and hand them to the delivery. The attribute ``app`` of this
module is made from the settings when it is first asked for, so importing the module reads and starts nothing.
"""

from __future__ import annotations

import asyncio
import gc
import os
import platform
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from confluent_kafka import KafkaException

from agents.committed import committed_offsets
from agents.delivery import Delivery
from agents.exactly_once import ExactlyOnceOutbox
from agents.ledger import Ledger
from agents.outbox import AtLeastOnceOutbox, Outbox
from agents.publisher import Publisher
from agents.registry import open_registry
from agents.serving import Route, Server
from agents.topics import DEAD_LETTER_FACTOR
from agents.transactions import Transactions
from agents.transport.driver import BatchApp
from agents.transport.flow import Flow
from agents.transport.poller import Poller
from agents.worker_config import consumer_config, producer_config, transaction_config
from pipeline.engine import Engine
from pipeline.errors import SettingsError
from pipeline.models.store import find_model
from pipeline.settings import Settings, load_settings
from schemas.codecs import Decoder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from agents.transport.batches import Batch
    from pipeline.errors import MillraceError
    from schemas.tasks import Kind

__all__ = ["InferenceApp", "create_app"]

CLOSE_TIMEOUT_S = 2.0
LETTER_ROOM_BYTES = 65_536
"""For Kafka's framing of a record in a batch of its own, generously."""


class InferenceApp(BatchApp):
    """A worker: the engine, the delivery, and what Kafka needs around them.

    Args:
        settings: of this worker.
        engine: not started yet.
        crash_on_failure: crash, so that whatever runs the app ends it, once one of :attr:`failures` is done.

    Attributes:
        engine: computes requests; started before the first record is fetched.
        delivery: keeps the ledger; there once the app has begun to start.
        threads_left: after the stop: a thread hangs, so that the process may not end by itself.
    """

    delivery: Delivery
    publisher: Publisher

    def __init__(self, settings: Settings, engine: Engine, *, crash_on_failure: bool = False) -> None:
        kafka, worker = settings.kafka, settings.worker
        super().__init__(
            kafka.group_id,
            broker=f"kafka://{kafka.bootstrap_servers}",
            store="memory://",
            autodiscover=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
        )
        self.millrace = settings
        self.engine = engine
        self.threads_left = False
        self._crash_on_failure = crash_on_failure
        self._engine_started = False
        self._flows = {
            topic: Flow(max_records=worker.max_in_flight_records, max_bytes=worker.max_in_flight_bytes)
            for topic in (kafka.prompts, kafka.images)
        }

    @property
    def _made(self) -> bool:
        """Whether it came so far that there is something to leave and to close."""
        return hasattr(self, "delivery")

    @property
    def failures(self) -> tuple[asyncio.Future[Any], ...]:
        """Done, with the error as their result, when the engine, the delivery or the outbox cannot go on."""
        started = (self.engine.failed,) if self._engine_started else ()
        return *started, self.outbox.failed

    @property
    def failure(self) -> MillraceError | None:
        """The first of :attr:`failures`, if there is one."""
        for failed in self.failures:
            if failed.done():
                return cast("MillraceError", failed.result())
        return None

    def services_before_agents(self) -> Iterable[Any]:
        """The delivery, which the agents hand their batches to. Raises SettingsError."""
        ledger = Ledger()
        with _naming_the_setting():
            self._poller = Poller(consumer_config(self.millrace), self._flows)
            self.outbox = self._make_outbox(ledger)
        self.delivery = self._make_delivery(ledger)
        return [self.delivery]

    def _make_delivery(self, ledger: Ledger) -> Delivery:
        kafka = self.millrace.kafka
        return Delivery(
            server=Server(
                self.engine,
                _routes(self.millrace),
                dead_letters=kafka.dead_letters,
                worker=f"{platform.node()}-{os.getpid()}",
                max_letter_bytes=DEAD_LETTER_FACTOR * kafka.max_message_bytes - LETTER_ROOM_BYTES,
            ),
            ledger=ledger,
            outbox=self.outbox,
            pieces=self.publisher,
            poller=self._poller,
            flows=self._flows,
            tokens=kafka.tokens,
            metrics=self.engine.metrics,
            route=self.topics.deliver,
            watchdog_timeout_s=self.millrace.worker.watchdog_timeout_s,
            runs=lambda: self.engine.runs,
            loop=self.loop,
            beacon=self.beacon,
        )

    def _make_outbox(self, ledger: Ledger) -> Outbox:
        settings = self.millrace
        self.publisher = Publisher(producer_config(settings))
        if settings.worker.delivery == "at_least_once":
            interval_s = settings.worker.commit_interval_s
            return AtLeastOnceOutbox(ledger, self.publisher, self._poller, interval_s=interval_s)
        return ExactlyOnceOutbox(
            ledger,
            Transactions(
                transaction_config(settings),
                partial(committed_offsets, consumer_config(settings)),
                timeout_s=settings.kafka.transaction_timeout_s,
                patience_s=settings.kafka.delivery_timeout_s,
            ),
            self._poller,
            interval_s=settings.worker.transaction_interval_s,
            max_records=settings.worker.transaction_max_records,
        )

    def start_fetching(self, topics: list[str]) -> None:  # noqa: ARG002 - the agents' topics are the flows'
        """Join the group: every agent is listening."""
        self._poller.begin(self.delivery)

    async def on_first_start(self) -> None:
        """See that Kafka is there, load and warm up the models. Raises TransportError, ModelError."""
        await super().on_first_start()
        await asyncio.to_thread(self._poller.check, self.millrace.kafka.topics)
        await self.outbox.open()
        await self.engine.start()
        self._engine_started = True
        # What is here now stays: looking at it again and again cost about a tenth of the CPU time of each record.
        gc.collect()
        gc.freeze()
        if self._crash_on_failure:
            self.add_future(self._crash_when_failed())

    async def _crash_when_failed(self) -> None:
        await asyncio.wait(self.failures, return_when=asyncio.FIRST_COMPLETED)
        if self.failure is not None:
            await self.crash(self.failure)

    async def on_stop(self) -> None:
        """Finish or give back what is held, commit, and leave the group, while the agents still run."""
        if self._made:
            await self._leave()
        await super().on_stop()

    async def _leave(self) -> None:
        left = await self.delivery.drain(self.millrace.worker.drain_timeout_s if self.failure is None else 0.0)
        if left:
            self.log.warning("%d records are given back unserved; their next owner serves them", left)
        await self.delivery.leave()

    async def on_shutdown(self) -> None:
        """Close the engine and the publisher."""
        gc.unfreeze()
        self.threads_left = not await self.engine.close()
        if self._made:
            await self._close_producers()

    async def _close_producers(self) -> None:
        await self.outbox.close(CLOSE_TIMEOUT_S)
        if left := await self.publisher.close(CLOSE_TIMEOUT_S):
            self.log.warning("%d records were still with the producer; their sources are uncommitted", left)


def create_app(settings: Settings, engine: Engine | None = None, *, crash_on_failure: bool = False) -> InferenceApp:
    """The app with its two agents.

    Args:
        settings: of this worker.
        engine: not started yet; ``None`` makes one that serves the models of the settings.
        crash_on_failure: crash when it cannot go on; otherwise the caller watches :attr:`InferenceApp.failures`.

    Raises:
        ModelError: a model to serve is missing or damaged.
        SettingsError: a schema registry is set, and what speaks to one is not installed.
    """
    models = settings.models.serve if engine is None else ()
    engine = engine or Engine(settings, [find_model(name, settings) for name in models], specs=models)
    app = InferenceApp(settings, engine, crash_on_failure=crash_on_failure)
    for topic, name in ((settings.kafka.prompts, "prompts"), (settings.kafka.images, "images")):
        app.agent(app.topic(topic, acks=False, value_type=bytes, key_type=bytes), name=name)(_agent(app))
    return app


@contextmanager
def _naming_the_setting() -> Iterator[None]:
    """Librdkafka's refusal of its settings as a SettingsError: only those of ``kafka.client`` are the user's own."""
    try:
        yield
    except KafkaException as error:
        why = error.args[0].str().strip()
        raise SettingsError(f"settings: kafka.client is not what librdkafka takes: {why}.") from error


def _agent(app: InferenceApp) -> Any:
    async def admit(batches: AsyncIterator[Any]) -> None:
        async for batch in batches:
            try:
                app.delivery.admit(cast("Batch", batch))
            except Exception as error:  # Faust would start the agent anew and forget the batch
                app.delivery.fail_on_bug(error, "an agent")

    return admit


def _routes(settings: Settings) -> dict[str, Route]:
    kafka = settings.kafka
    registry = open_registry(settings)

    def route(kind: Kind, results: str, max_bytes: int) -> Route:
        decoder = Decoder(kind, registry=registry, max_bytes=max_bytes)
        return Route(decoder, results, asks_registry=registry is not None)

    return {
        kafka.prompts: route("prompts", kafka.prompt_results, kafka.max_message_bytes),
        kafka.images: route("images", kafka.image_results, settings.images.max_bytes),
    }


def __getattr__(name: str) -> Any:
    """``app``, made from the settings, for Faust's own command line."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = create_app(load_settings(), crash_on_failure=True)
    globals()["app"] = app
    return app
