"""Waiting for what another thread or process does: with a bound, and with words for what did not happen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["PATIENCE_S", "until", "wait_until"]

T = TypeVar("T")
PATIENCE_S = 60.0
"""For a machine under load. What takes longer counts as what never happens."""


def wait_until(
    condition: Callable[[], T],
    what: str,
    *,
    timeout_s: float = PATIENCE_S,
    poll_s: float = 0.02,
    busy: Callable[[], object] = lambda: None,
) -> T:
    """What ``condition`` returns once that is true; fails with ``what`` when it is not within ``timeout_s``.

    ``busy`` is called after each look in vain.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        busy()
        time.sleep(poll_s)
    return found


async def until(condition: Callable[[], T], what: str, *, timeout_s: float = PATIENCE_S, poll_s: float = 0.005) -> T:
    """:func:`wait_until` on the event loop, which goes on meanwhile."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(poll_s)
    return found
