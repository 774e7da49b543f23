"""The poll thread: all calls to one confluent-kafka consumer, in a thread of its own.

confluent-kafka serves one thread at a time, so commits and everything else come through a queue of commands that the
thread works off between two fetches. A fetch waits for one record and then takes what is there: ``consume(n, t)`` alone
would wait for all ``n``. Nothing that the thread does between two fetches waits for long, for while it waits every
partition stands still.

Where a partition begins is asked for here, and librdkafka is told. Left to itself, librdkafka 2.16 asks again and again
while a transaction holds the offset; but when the assignment changes meanwhile, as in every rebalance, it takes the
refusal for "nothing was ever committed" and begins at ``auto.offset.reset``. A partition of which it cannot be told yet
is held and not fetched.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import defaultdict, deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from agents.ledger import Partition
from agents.records import place, record_size
from agents.transport.commits import CommitRefusedError, Commits, commit_now
from agents.transport.flow import Flow, State, Valve
from agents.transport.positions import Positions
from pipeline.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

__all__ = ["CommitRefusedError", "Listener", "Poller"]

LOG = logging.getLogger("millrace.transport")

WAIT_S = 0.02
ROOM_POLL_S = 0.002
WAKE_AFTER_S = 0.02
WAKE_TIMEOUT_S = 0.1
PLACE_INTERVAL_S = 1.0
PLACE_S = 0.5
METADATA_TIMEOUT_S = 15.0
METADATA_STEP_S = 1.0
NOT_LET_IN = frozenset({KafkaError._AUTHENTICATION, KafkaError._SSL})
PASSING_ERRORS = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT})


class Listener(Protocol):
    """What the poll thread tells; every method is called on that thread."""

    def on_assigned(self, partitions: list[Partition]) -> None:
        """``partitions`` were given to this worker; their records follow."""

    def on_revoked(self, partitions: list[Partition], metadata: Any) -> Mapping[Partition, int]:
        """``partitions`` are being given up: finish what is nearly done and return the offsets to commit.

        ``metadata`` is the membership in the group at this moment.
        """
        ...

    def on_lost(self, partitions: list[Partition]) -> None:
        """``partitions`` already belong to another worker: nothing can be committed."""

    def on_messages(self, partition: Partition, messages: tuple[Message, ...]) -> None:
        """Records of one partition, in offset order."""

    def on_position(self, bounds: Mapping[Partition, tuple[int, int]], held: frozenset[Partition]) -> None:
        """About once a second: where each assigned partition started under this assignment, and its end.

        Of those that are ``held``, which are not fetched yet, nobody can tell where they start.
        """

    def on_failed(self, error: TransportError) -> None:
        """The consumer cannot go on; no more calls follow."""


class Poller(threading.Thread):
    """Fetches ``topics`` in a consumer group until stopped.

    Args:
        config: librdkafka settings of the consumer.
        topics: their names and how much of each may be held at once.
    """

    def __init__(self, config: Mapping[str, Any], topics: Mapping[str, Flow]) -> None:
        super().__init__(name="kafka-poll", daemon=True)
        self._commits = Commits()
        self._consumer = Consumer({**config, "on_commit": self._commits.on_answer, "error_cb": self._on_error})
        self._positions = Positions(self._consumer)
        self._not_let_in: KafkaError | None = None
        self._servers = config.get("bootstrap.servers", "")
        self._flows = dict(topics)
        self._listener: Listener
        self._commands: deque[tuple[Callable[[Future[Any]], None], Future[Any]]] = deque()
        self._lock = threading.Lock()
        self._ended = False
        self._stopping = threading.Event()
        self._fetching = True
        self._assigned: set[Partition] = set()
        self._unplaced: deque[Partition] = deque()
        self._place_at = math.inf
        self._paused: set[str] = set()
        self._valves = {topic: Valve() for topic in self._flows}
        self._waiting = False
        self._wake_at = math.inf

    @property
    def assignment(self) -> frozenset[Partition]:
        """The partitions this worker holds now."""
        return frozenset(self._assigned)

    # Called from other threads.

    def check(self, topics: Collection[str]) -> None:
        """See that Kafka answers, lets this worker in and has ``topics``; call it before :meth:`begin`.

        Raises:
            TransportError: it does not, within 15 s.
        """
        known = self._known_topics()
        if missing := [name for name in topics if name not in known]:
            raise TransportError(
                f"no topic {', '.join(missing)} on {self._servers}. `millrace topics` makes them all; "
                "or set kafka.topic_prefix to the one they were created with."
            )

    def _known_topics(self) -> Any:
        deadline = time.monotonic() + METADATA_TIMEOUT_S
        while True:
            try:
                return self._consumer.list_topics(timeout=METADATA_STEP_S).topics
            except KafkaException as error:
                self._consumer.poll(0)  # librdkafka tells of its errors here
                if self._not_let_in is not None:
                    raise TransportError(
                        f"Kafka at {self._servers} does not let this worker in: {self._not_let_in.str()}. See that "
                        "kafka.client of the settings is what it wants (security.protocol, sasl.*, ssl.*)."
                    ) from error
                if self._stopping.is_set() or time.monotonic() > deadline:
                    raise TransportError(
                        f"cannot reach Kafka at {self._servers} within {METADATA_TIMEOUT_S:g} s ({error}). Is it "
                        "running, is kafka.bootstrap_servers right, and kafka.client what it wants (security)?"
                    ) from error

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in NOT_LET_IN:
            self._not_let_in = error

    def begin(self, listener: Listener) -> None:
        """Join the group and fetch, telling ``listener`` of records and rebalances."""
        self._listener = listener
        self.start()

    def group_metadata(self) -> Future[Any]:
        """The membership, as ``send_offsets_to_transaction`` wants it; TransportError while there is none."""
        return self._call(self._tell_membership)

    def commit(self, offsets: Mapping[Partition, int]) -> Future[Mapping[Partition, int]]:
        """Commit ``offsets``; the future gives those the broker took, or the TransportError."""
        return self._call(lambda done: self._commits.begin(self._consumer, self._held(offsets), done))

    def stop_fetching(self) -> Future[None]:
        """Take no further records; the group membership and the partitions stay."""
        return self._call(self._stop_fetching)

    def stop(self, timeout_s: float | None = None) -> bool:
        """Leave the group and end the thread; whether it has ended within ``timeout_s``."""
        self._stopping.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join(timeout_s)
        return not self.is_alive()

    def _call(self, function: Callable[[Future[Any]], None]) -> Future[Any]:
        """Have ``function`` called on the poll thread; it answers the future, at once or later."""
        future: Future[Any] = Future()
        with self._lock:
            if self._ended:
                future.set_exception(TransportError("the Kafka consumer has ended."))
            else:
                self._commands.append((function, future))
        return future

    # The poll thread.

    def run(self) -> None:
        """Fetch until stopped; a failure is told to the listener."""
        try:
            self._consumer.subscribe(
                list(self._flows), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            while not self._stopping.is_set():
                self._work_off_commands()
                self._apply_flow()
                self._wake_fetchers()
                self._place_late()
                self._fetch()
                self._report_position()
        except TransportError as error:
            self._listener.on_failed(error)
        except Exception as error:  # whatever it was, the worker must hear of it
            self._listener.on_failed(TransportError(f"the Kafka consumer failed: {error}"))
        finally:
            self._refuse_commands()
            try:
                self._consumer.close()
            finally:
                self._commits.end()

    def _work_off_commands(self) -> None:
        while self._commands:
            function, future = self._commands.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                function(future)
            except Exception as error:  # handed to the caller
                future.set_exception(error)

    def _refuse_commands(self) -> None:
        """Work off what was asked for in time; whoever asks later is told that it is too late."""
        with self._lock:
            self._ended = True
        self._work_off_commands()

    def _tell_membership(self, done: Future[Any]) -> None:
        metadata = self._consumer.consumer_group_metadata()
        # Between the loss of the partitions and on_lost there may be neither a member id nor a generation, and Kafka
        # takes offsets without both from anybody: older clients send none.
        if not self._consumer.memberid():
            raise TransportError("no transaction now: this worker is not a member of its group.")
        done.set_result(metadata)

    def _stop_fetching(self, done: Future[None]) -> None:
        self._fetching = self._waiting = False
        for topic in self._flows:
            self._pause(topic)
        done.set_result(None)

    def _apply_flow(self) -> None:
        if not self._fetching:
            return
        states = {topic: self._valves[topic].turn(flow.share, time.monotonic()) for topic, flow in self._flows.items()}
        self._waiting = State.WAITING in states.values()
        for topic, state in states.items():
            if state is State.PAUSED and topic not in self._paused:
                self._pause(topic)
            elif state is not State.PAUSED and topic in self._paused:
                self._paused.discard(topic)
                self._consumer.resume(self._partitions_of(topic))

    def _pause(self, topic: str) -> None:
        self._paused.add(topic)
        self._consumer.pause(self._partitions_of(topic))

    def _partitions_of(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(*partition) for partition in self._assigned if partition.topic == topic]

    def _fetch(self) -> None:
        if self._waiting:
            time.sleep(ROOM_POLL_S)
            return
        messages = self._consumer.consume(1, WAIT_S)
        if messages:
            # A fetch may bring any topic, so the one with the least room bounds it.
            room = min((flow.room for topic, flow in self._flows.items() if topic not in self._paused), default=1)
            messages += self._consumer.consume(room, 0)
            self._deliver(messages)

    def _deliver(self, messages: list[Message]) -> None:
        groups: defaultdict[tuple[str, int], list[Message]] = defaultdict(list)
        for message in messages:
            if (error := message.error()) is None:
                groups[place(message)].append(message)
            else:
                self._check_error(message, error)
        for name, records in groups.items():
            partition = Partition(*name)
            if partition in self._assigned:
                self._positions.fetched(partition)
                self._flows[partition.topic].take([record_size(record) for record in records])
                self._listener.on_messages(partition, tuple(records))

    def _check_error(self, message: Message, error: KafkaError) -> None:
        if error.code() not in PASSING_ERRORS and (error.fatal() or not error.retriable()):
            where = f"{message.topic()}/{message.partition()}@{message.offset()}" if message.topic() else self._servers
            raise TransportError(f"Kafka cannot deliver from {where}: {error.str()}.")

    def _report_position(self) -> None:
        if self._positions.due():
            self._listener.on_position(self._positions.bounds(self._assigned), frozenset(self._unplaced))

    def _held(self, offsets: Mapping[Partition, int]) -> dict[Partition, int]:
        return {partition: offset for partition, offset in offsets.items() if partition in self._assigned}

    def _wake_fetchers(self) -> None:
        """Have librdkafka fetch again soon after partitions were given up.

        It fetches nothing while the callback runs, and its thread of each broker, once it finds nothing to fetch,
        sleeps for a second. A request to that broker wakes it; the callback's end does not, nor does ``resume()``.
        """
        if time.monotonic() >= self._wake_at:
            self._wake_at = math.inf
            self._positions.ask_ends(self._assigned, WAKE_TIMEOUT_S)

    # Rebalance callbacks; librdkafka calls them inside consume() and close().

    def _on_assign(self, _: Consumer, added: list[TopicPartition]) -> None:
        partitions = _names(added)
        self._assigned.update(partitions)
        self._positions.forget(partitions)
        self._listener.on_assigned(partitions)
        # Also of none: librdkafka waits for the call.
        self._place(starts := self._positions.ask_starts(partitions))
        placed = _names(starts)
        self._unplaced.extend(partition for partition in partitions if partition not in placed)
        if self._unplaced:
            self._place_at = time.monotonic() + PLACE_INTERVAL_S
            LOG.info("%d partitions wait: a transaction holds the offset, or nobody tells it", len(self._unplaced))

    def _on_revoke(self, consumer: Consumer, removed: list[TopicPartition]) -> None:
        if not consumer.memberid():  # librdkafka no longer holds for lost what is lost once it is given a partition
            self._on_lost(consumer, removed)
            return
        partitions = _names(removed)
        offsets = self._listener.on_revoked(partitions, consumer.consumer_group_metadata())
        try:
            commit_now(consumer, self._held(offsets))
        except TransportError as error:
            LOG.warning("%s; the next owner repeats those records, with the same outcome ids", error)
        self._take_away(removed)
        self._wake_at = time.monotonic() + WAKE_AFTER_S

    def _on_lost(self, _: Consumer, removed: list[TopicPartition]) -> None:
        self._listener.on_lost(_names(removed))
        self._take_away(removed)

    def _take_away(self, removed: list[TopicPartition]) -> None:
        partitions = _names(removed)
        self._consumer.incremental_unassign([tp for tp in removed if _name(tp) not in self._unplaced])
        self._assigned.difference_update(partitions)
        self._unplaced = deque(partition for partition in self._unplaced if partition not in partitions)

    # Where a partition begins.

    def _place(self, starts: list[TopicPartition]) -> None:
        """Fetch each of ``starts`` from its offset on."""
        self._consumer.incremental_assign(starts)
        # librdkafka remembers a pause across assignments: a partition that left while its topic was paused comes back
        # paused, and nothing would ever resume it.
        self._consumer.pause([tp for tp in starts if tp.topic in self._paused])
        self._consumer.resume([tp for tp in starts if tp.topic not in self._paused])

    def _place_late(self) -> None:
        """Ask again for the partitions whose beginning could not be told when they were assigned.

        For one after another, up to the first that still waits: asked for several, Kafka answers when it can tell all.
        """
        if not self._unplaced or (now := time.monotonic()) < self._place_at:
            return
        while time.monotonic() < now + PLACE_S and (starts := self._positions.ask_starts([*self._unplaced][:1])):
            self._place(starts)
            self._unplaced.popleft()
        self._unplaced.rotate(-1)
        self._place_at = time.monotonic() + PLACE_INTERVAL_S


def _names(partitions: Iterable[TopicPartition]) -> list[Partition]:
    return [_name(tp) for tp in partitions]


def _name(tp: TopicPartition) -> Partition:
    return Partition(tp.topic, tp.partition)
