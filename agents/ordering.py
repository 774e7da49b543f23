"""Results of one key are given out in the order their requests came, however fast each was served."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from types import TracebackType

__all__ = ["KeyOrder"]


class KeyOrder:
    """Lets requests with equal keys leave in the order they entered. For one event loop."""

    def __init__(self) -> None:
        self._last: dict[Hashable, asyncio.Event] = {}

    def turn(self, key: Hashable | None) -> Turn:
        """A context whose body runs at once, and which is left when every earlier one of ``key`` has been left.

        ``None`` has no order.
        """
        return Turn(self._last, key)


class Turn:
    """The stay of one request."""

    __slots__ = ("_earlier", "_key", "_last", "_left")

    def __init__(self, last: dict[Hashable, asyncio.Event], key: Hashable | None) -> None:
        self._last = last
        self._key = key

    async def __aenter__(self) -> None:
        if self._key is not None:
            self._earlier = self._last.get(self._key)
            self._left = self._last[self._key] = asyncio.Event()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._key is None:
            return
        try:
            if self._earlier is not None:
                await self._earlier.wait()
        finally:
            self._left.set()
            if self._last.get(self._key) is self._left:
                del self._last[self._key]
