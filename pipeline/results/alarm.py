"""What people get to know of a store in trouble: one warning a minute at most, a metric for each failure."""

from __future__ import annotations

import logging
import time

from prometheus_client import Counter

__all__ = ["Alarm"]

LOG = logging.getLogger("millrace.results")
QUIET_S = 60.0


class Alarm:
    """Counts and tells of failures.

    Args:
        store: the store's name, for the messages.
        errors: counts failures, by ``operation``.
    """

    def __init__(self, store: str, errors: Counter) -> None:
        self._store = store
        self._errors = errors
        self._ailing: set[str] = set()
        self._next_warning = 0.0

    def failed(self, operation: str, reason: str) -> None:
        """``operation`` is out of use until :meth:`worked` says otherwise."""
        self._ailing.add(operation)
        self.note(operation, reason)

    def note(self, operation: str, reason: str) -> None:
        """``operation`` went wrong this once."""
        self._errors.labels(operation).inc()
        if time.monotonic() >= self._next_warning:
            self._next_warning = time.monotonic() + QUIET_S
            LOG.warning(
                "the result store (%s) does not serve, in %s: %s. Records are computed without it; it is tried again "
                "every few seconds",
                self._store, operation, reason,
            )  # fmt: skip

    def worked(self, operation: str) -> None:
        """``operation`` is well."""
        if operation in self._ailing:
            self._ailing.discard(operation)
            if not self._ailing:
                LOG.info("the result store (%s) serves again", self._store)
