"""Outcomes, dead letters, last pieces of answers and offsets, in one Kafka transaction at a time.

The steps of one transaction are numbered in :meth:`Transactions.run`. The group's membership goes along with the
offsets, so a worker that has lost its partitions without knowing it (a zombie) is refused by the broker (KIP-447).

A transaction that fails is aborted. Where even that does not work (the broker was killed under it, its coordinator has
forgotten the producer, the client's sequence numbers are broken) the producer is made anew under the same
``transactional.id``: to register it, the coordinator first ends whatever is left of the old one. If the commit had been
asked for and its answer is missing, the group's committed offsets then tell whether it happened.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from pipeline.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from agents.ledger import Partition
    from agents.publisher import OutgoingRecord

    CommittedOffsets = Callable[[Collection[Partition], float], Mapping[Partition, int]]

__all__ = ["AbortedError", "Transactions"]

LOG = logging.getLogger("millrace.transactions")
OPEN_TIMEOUT_S = 30.0
ABORT_TIMEOUT_S = 5.0
LOOK_TIMEOUT_S = 30.0
MIN_STEP_S = 1.0
RETRY_S = 0.5

REFUSALS = {
    KafkaError.MSG_SIZE_TOO_LARGE: "Raise max.message.bytes of the results and dead letter topics: `millrace topics` "
    "sets it as kafka.max_message_bytes asks.",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "Allow this worker to write to the results, dead letter and token topics.",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "Allow this worker to read in its group (kafka.group_id).",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "Allow this worker to write under transactional ids that begin "
    "with kafka.group_id.",
}
"""What no further try would mend, and what does."""


class AbortedError(Exception):
    """The transaction did not happen; its records may go into the next one."""


class Transactions:
    """One transactional producer at a time. Every call blocks, and all of them belong to one thread.

    Args:
        config: librdkafka settings with a ``transactional.id`` of this worker's own.
        committed: the group's committed offsets of these partitions, asked for at most these seconds, with nothing of
            a transaction pending; raises KafkaException.
        timeout_s: bound of one whole transaction.
        patience_s: how long Kafka may take no transaction at all.
    """

    def __init__(
        self, config: Mapping[str, Any], committed: CommittedOffsets, *, timeout_s: float, patience_s: float
    ) -> None:
        self._config = dict(config)
        self._committed = committed
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._producer = Producer(self._config)
        self._deadline = 0.0
        self._failing_since: float | None = None

    @property
    def bound_s(self) -> float:
        """No :meth:`run` takes longer."""
        return self._timeout_s + ABORT_TIMEOUT_S + self._patience_s + LOOK_TIMEOUT_S

    def open(self) -> None:
        """Register the transactional id. Raises TransportError."""
        try:
            self._producer.init_transactions(OPEN_TIMEOUT_S)
        except KafkaException as error:
            raise TransportError(
                f"no transactions from Kafka at {self._servers} within {OPEN_TIMEOUT_S:g} s ({error.args[0].str()}). "
                "Is it running, version 2.5 or later, and is kafka.bootstrap_servers right?"
            ) from error

    def run(self, records: Sequence[OutgoingRecord], offsets: Mapping[Partition, int], metadata: Any) -> None:
        """Publish ``records`` and commit ``offsets``, both or neither.

        Raises:
            AbortedError: neither; try again with fresh metadata.
            TransportError: Kafka refuses, or takes nothing for too long; the worker must end.
        """
        self._deadline = time.monotonic() + self._timeout_s
        committing = False
        try:
            # 1. Begin.
            self._producer.begin_transaction()
            # 2. Offsets, with the membership that fences zombies: a refusal is cheap while nothing is produced.
            self._producer.send_offsets_to_transaction(_positions(offsets), metadata, self._left_s())
            # 3. Produce.
            self._produce(records)
            # 4. Commit: flushes, and fails unless every record was delivered.
            committing = True
            self._commit()
        except KafkaException as error:
            self._recover(error.args[0], offsets if committing else None)
        self._failing_since = None

    def close(self) -> None:
        """Let go of what is queued; an open transaction times out at the broker."""
        self._producer.purge()
        with suppress(KafkaException):  # a fenced producer refuses even this, and its worker must end by its own reason
            self._producer.flush(0)

    @property
    def _servers(self) -> str:
        return str(self._config.get("bootstrap.servers", ""))

    def _produce(self, records: Sequence[OutgoingRecord]) -> None:
        for record in records:
            while not self._try_produce(record):
                if time.monotonic() > self._deadline:
                    raise KafkaException(KafkaError(KafkaError._QUEUE_FULL))
                self._producer.poll(0.05)

    def _try_produce(self, record: OutgoingRecord) -> bool:
        try:
            self._producer.produce(record.topic, record.value, record.key, headers=record.headers)
        except BufferError:
            return False
        return True

    def _left_s(self) -> float:
        return max(MIN_STEP_S, self._deadline - time.monotonic())

    def _commit(self) -> None:
        """Commit; what timed out is the same commit still, so it is asked again rather than aborted."""
        while True:
            try:
                self._producer.commit_transaction(self._left_s())
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > self._deadline:
                    raise
            else:
                return

    def _recover(self, reason: KafkaError, asked: Mapping[Partition, int] | None) -> None:
        """Make the producer fit for the next transaction.

        Args:
            reason: of the failure.
            asked: the offsets whose commit was asked for, if it was; returns when it did happen.
        """
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        aborted = self._abort(reason, unanswered=asked is not None and reason.retriable())
        if hint := REFUSALS.get(reason.code()):
            raise TransportError(f"Kafka refuses a transaction: {reason.str()}. {hint}")
        if not aborted:
            self._renew(reason)
            if asked is not None and self._happened(asked):
                return
        if now - self._failing_since > self._patience_s:
            raise TransportError(f"Kafka has taken no transaction for {self._patience_s:g} s: {reason.str()}.")
        raise AbortedError(reason.str())

    def _abort(self, reason: KafkaError, *, unanswered: bool) -> bool:
        """Abort, if the producer is still able to."""
        if unanswered or reason.fatal():
            return False
        try:
            self._producer.abort_transaction(ABORT_TIMEOUT_S)
        except KafkaException as error:
            LOG.warning("a transaction could not be aborted: %s (after: %s)", error.args[0].str(), reason.str())
            return False
        return True

    def _renew(self, reason: KafkaError) -> None:
        """A new producer under the old id: registering it ends whatever transaction the old one left."""
        LOG.warning("making the transactional producer anew: %s", reason.str())
        self.close()
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                self._producer = Producer(self._config)
                self._producer.init_transactions(max(MIN_STEP_S, deadline - time.monotonic()))
            except KafkaException as error:
                last = error.args[0]
            else:
                return
            if time.monotonic() > deadline or last.code() in REFUSALS:
                raise TransportError(
                    f"Kafka at {self._servers} has taken no transaction for {self._patience_s:g} s: {last.str()} "
                    f"(after: {reason.str()}). What is not committed will be served again."
                )
            time.sleep(RETRY_S)

    def _happened(self, offsets: Mapping[Partition, int]) -> bool:
        """Whether the transaction that was to commit ``offsets`` did so, or another owner went past them since."""
        try:
            found = self._committed(list(offsets), LOOK_TIMEOUT_S)
        except KafkaException as error:
            raise TransportError(
                f"a commit was not answered, and Kafka does not tell whether it happened: {error.args[0].str()}. The "
                "next owner of the partitions goes by what is committed."
            ) from error
        return all(found.get(partition, -1) >= offset for partition, offset in offsets.items())


def _positions(offsets: Mapping[Partition, int]) -> list[TopicPartition]:
    return [TopicPartition(*partition, offset) for partition, offset in offsets.items()]
