"""The Faust side of the transport: an app whose agents iterate over batches, ``async for batch in stream``.

Faust gives the agents, their supervision and the start and stop of services; this transport replaces its consumer,
fetcher, acks, tables and leader election. One :class:`~agents.transport.batches.Batch` per partition per fetch goes
straight onto the agents' channels; Faust's streams pass values that are no Events through untouched. What this
transport cannot do is refused at the start: tables, and topics that acknowledge.

It uses names that Faust does not promise to keep, so pyproject.toml pins Faust exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import faust
from faust.app.base import BootStrategy
from faust.exceptions import ImproperlyConfigured
from faust.transport.base import Transport
from faust.transport.conductor import Conductor
from mode import Service

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agents.transport.batches import Batch

__all__ = ["BatchApp"]


class BatchConsumer(Service):  # type: ignore[misc]
    """What Faust asks of a consumer; the fetching itself is the app's own."""

    def __init__(self, transport: BatchTransport, **kwargs: Any) -> None:
        self.app: BatchApp = transport.app
        self.unacked: set[Any] = set()
        self._unacked_messages = self.unacked  # the name that Faust's compiled streams read
        super().__init__(loop=kwargs.get("loop"), beacon=kwargs.get("beacon"))

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Start fetching: every agent is listening."""
        self.app.start_fetching(list(topics))

    def assignment(self) -> set[Any]:
        """Always empty for Faust: pausing and draining are the delivery's business."""
        return set()


class BatchConductor(Conductor):  # type: ignore[misc]
    """Hands batches to the channels that subscribe to their topic."""

    @Service.task  # type: ignore[untyped-decorator]
    async def _subscriber(self) -> None:
        await self.app.agents.wait_until_agents_started()
        for topic in self:
            _refuse_acks(topic)
        await self.app.consumer.subscribe([name for topic in self for name in topic.topics])

    def deliver(self, batch: Batch) -> None:
        """Put ``batch`` on every channel of its topic. Call on the event loop."""
        for topic in self:
            if batch.partition.topic in topic.topics:
                topic.queue.force_put_nowait(batch)


class BatchTransport(Transport):  # type: ignore[misc]
    """Ties consumer and conductor to the app."""

    Consumer = BatchConsumer
    Conductor = BatchConductor
    driver_version = "confluent-kafka, in batches"


class BatchBootStrategy(BootStrategy):  # type: ignore[misc]
    """The services of a worker, in starting order; they stop in reverse."""

    def server(self) -> Iterable[Any]:
        """Millrace's own services first, then the consumer, the agents and the conductor."""
        return [*self.app.services_before_agents(), self.app.consumer, self.app.agents, self.app.topics]


class BatchApp(faust.App):  # type: ignore[misc]
    """A Faust app on this transport."""

    BootStrategy = BatchBootStrategy

    def services_before_agents(self) -> Iterable[Any]:
        """Services that must run before the first record is fetched."""
        return ()

    def start_fetching(self, topics: list[str]) -> None:
        """Fetch ``topics`` and hand their batches to :meth:`BatchConductor.deliver`; every agent is listening."""
        raise NotImplementedError

    def _new_transport(self) -> BatchTransport:
        return BatchTransport(self.conf.broker_consumer, self)

    async def on_first_start(self) -> None:
        """Refuse what this transport cannot do."""
        if self.tables:
            raise ImproperlyConfigured(
                f"this transport has no tables, and the app declares {', '.join(self.tables)}: "
                "keep state in a database of its own."
            )
        for agent in self.agents.values():
            _refuse_acks(agent.channel)
        await super().on_first_start()

    def _create_directories(self) -> None:
        """Nothing: the folders are for tables, and the current one need not be writable."""

    async def _wait_for_table_recovery_completed(self) -> bool:
        return False  # there are no tables; False says that nothing asked the app to stop meanwhile

    async def _producer_flush(self, logger: Any) -> None:
        """Nothing: Faust's own producer is never made."""


def _refuse_acks(topic: Any) -> None:
    if topic.acks:
        raise ImproperlyConfigured(
            f"topic {topic.get_topic_name()} acknowledges records, which this transport does not do: "
            "declare it with acks=False and let the ledger commit."
        )
