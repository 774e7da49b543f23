"""Text from tokens as they come: no character is cut in two, and no part of a stop string gets out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["PieceDecoder", "StopScanner"]

# A character has at most 4 bytes, so at most 4 tokens: what is still incomplete after more is simply not UTF-8.
MAX_HELD_TOKENS = 8
INCOMPLETE = "\ufffd"


class PieceDecoder:
    """Decodes a growing list of tokens piece by piece.

    Each piece is decoded together with the one before it and then cut off it, because decoders treat the first token
    of a text specially. The pieces put together are the text.

    Args:
        decode: the text of token ids; incomplete UTF-8 becomes U+FFFD.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []  # the last piece's tokens, then those not given out yet
        self._given = 0  # how many of the window's tokens have been given out

    def push(self, token: int) -> str:
        """The text that ``token`` completes; empty while a character is incomplete."""
        self._window.append(token)
        text = self._decode(self._window)
        if text.endswith(INCOMPLETE) and len(self._window) - self._given < MAX_HELD_TOKENS:
            return ""
        return self._give(text)

    def flush(self) -> str:
        """What is held back, with U+FFFD for a character that was never completed."""
        return self._give(self._decode(self._window))

    def _give(self, text: str) -> str:
        piece = text[len(self._decode(self._window[: self._given])) :]
        self._window = self._window[self._given :]
        self._given = len(self._window)
        return piece


class StopScanner:
    """Lets text through until a stop string is complete; what may be the beginning of one is held back.

    Args:
        stops: the stop strings, none empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that may go out now, and whether a stop string ended it."""
        self._held += text
        starts = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if starts:
            return self._take(min(starts)), True
        return self._take(len(self._held) - self._suspicious()), False

    def flush(self) -> str:
        """What was held back: it was no stop string after all."""
        return self._take(len(self._held))

    def _take(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text

    def _suspicious(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0
