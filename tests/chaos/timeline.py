"""What happened when: the faults, and what the harness saw of the processes."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

__all__ = ["Event", "Timeline"]


class Event(NamedTuple):
    """One line of the timeline. ``at_ms`` is milliseconds since the Unix epoch, as Kafka's timestamps are."""

    at_ms: int
    what: str
    detail: str


class Timeline:
    """Collects events, in memory and in a file, and counts the faults.

    Args:
        file: gets one JSON line for each event.
        screen: gets a line for people; ``None`` for nowhere.
    """

    def __init__(self, file: Path, screen: TextIO | None = None) -> None:
        self.events: list[Event] = []
        self.faults: Counter[str] = Counter()
        self._file = file
        self._screen = screen
        self._start = time.monotonic()

    def note(self, what: str, detail: str) -> None:
        """Add an event that happens now."""
        event = Event(time.time_ns() // 1_000_000, what, detail)
        self.events.append(event)
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(event._asdict()) + "\n")
        if self._screen is not None:
            self._screen.write(f"{time.monotonic() - self._start:7.1f} s  {what:<18} {detail}\n")
            self._screen.flush()

    def around(self, at_ms: int, before_ms: int = 15_000, after_ms: int = 15_000) -> Iterator[Event]:
        """The events near a moment."""
        return (event for event in self.events if -before_ms <= event.at_ms - at_ms <= after_ms)
