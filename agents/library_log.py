"""The log of librdkafka, which says the same thing twenty times a second for as long as Kafka is away."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LIBRARY_LOG", "Calm"]

INTERVAL_S = 10.0


class Calm(logging.Filter):
    """Lets a client say once in ``INTERVAL_S`` that a connection failed, and how often it has said so since.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said_at: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether ``record`` is worth a line; one after a silence tells how many were left out."""
        text = record.getMessage()
        # A fresh broker says so for a moment; librdkafka tries again by itself and speaks up if it lasts.
        if "Coordinator load in progress" in text:
            return False
        if not text.startswith("FAIL "):
            return True
        client, now = " ".join(text.split(maxsplit=2)[:2]), self._clock()
        if now - self._said_at.get(client, -INTERVAL_S) < INTERVAL_S:
            self._left_out[client] = self._left_out.get(client, 0) + 1
            return False
        self._said_at[client] = now
        if count := self._left_out.pop(client, 0):
            record.msg, record.args = f"{text} ({count} more left out)", None
        return True


LIBRARY_LOG = logging.getLogger("millrace.kafka")
LIBRARY_LOG.addFilter(Calm())
