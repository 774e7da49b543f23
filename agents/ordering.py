"""Results of one key are given out in the order their requests came, however fast each was served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

__all__ = ["KeyOrder"]


class KeyOrder:
    """Lets requests with equal keys leave in the order they entered. For one event loop."""

    def __init__(self) -> None:
        self._last: dict[Hashable, asyncio.Event] = {}

    @asynccontextmanager
    async def turn(self, key: Hashable | None) -> AsyncIterator[None]:
        """The body runs at once; leaving waits until every earlier one of ``key`` has left. ``None`` has no order."""
        if key is None:
            yield
            return
        earlier, left = self._last.get(key), asyncio.Event()
        self._last[key] = left
        try:
            yield
        finally:
            try:
                if earlier is not None:
                    await earlier.wait()
            finally:
                self._leave(key, left)

    def _leave(self, key: Hashable, left: asyncio.Event) -> None:
        left.set()
        if self._last.get(key) is left:
            del self._last[key]
