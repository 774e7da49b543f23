"""What the transport hands to agents: the records of one partition from one fetch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agents.records import raw_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from confluent_kafka import Message

    from agents.ledger import Partition
    from schemas.records import RawRecord

__all__ = ["Batch"]


class Batch(NamedTuple):
    """Records of one partition, in offset order, as librdkafka delivered them.

    ``epoch`` names the assignment they were fetched under (see :mod:`agents.ledger`).
    """

    partition: Partition
    epoch: int
    messages: tuple[Message, ...]

    def records(self) -> Iterator[RawRecord]:
        """The records, decoded no further than their envelope."""
        return map(raw_record, self.messages)
