"""Which sequence is in which slot. The decoding ones are kept in the first slots, so a step runs over no idle row."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from pipeline.runtime.session import DecoderSession
from pipeline.tasks.sequence import TextSequence

__all__ = ["Slots"]


class Slots:
    """The sequences that share one KV cache: waiting for a slot, reading their prompt (at most one), or decoding.

    Args:
        count: how many slots there are.

    Attributes:
        decoding: by slot; after :meth:`compact`, ``decoding[i]`` is in slot ``i``.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._waiting: deque[TextSequence] = deque()
        self._reading: TextSequence | None = None
        self.decoding: list[TextSequence] = []

    def __iter__(self) -> Iterator[TextSequence]:
        yield from self.decoding
        if self._reading is not None:
            yield self._reading
        yield from self._waiting

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def free(self) -> int:
        """How many more sequences fit."""
        return self._count - len(self)

    def add(self, sequence: TextSequence) -> None:
        """Wait for a slot."""
        self._waiting.append(sequence)

    def reader(self) -> TextSequence | None:
        """The sequence whose prompt is being read, or else the next waiting one, which gets the first free slot."""
        if self._reading is None and self._waiting:
            self._reading = self._waiting.popleft()
            used = {sequence.slot for sequence in self.decoding}
            self._reading.slot = next(slot for slot in range(self._count) if slot not in used)
        return self._reading

    def start_decoding(self) -> None:
        """The reader has read its prompt."""
        if self._reading is None:
            raise RuntimeError("This is a bug: no sequence is reading its prompt.")
        self.decoding.append(self._reading)
        self._reading = None

    def take(self, gone: Callable[[TextSequence], bool]) -> list[TextSequence]:
        """Take out every sequence that is ``gone``; the cache is not touched."""
        leaving = [sequence for sequence in self if gone(sequence)]
        if leaving:
            self.decoding = [sequence for sequence in self.decoding if sequence not in leaving]
            self._waiting = deque(sequence for sequence in self._waiting if sequence not in leaving)
            self._reading = None if self._reading in leaving else self._reading
        return leaving

    def compact(self, session: DecoderSession) -> None:
        """Move decoding sequences from the last slots into the gaps before them.

        The reader is never in the way: its slot was the first free one behind the decoding ones, which only become
        fewer until it joins them.

        Raises:
            SessionError: a copy failed; every sequence is still whole in its slot.
        """
        count = len(self.decoding)
        used = {sequence.slot for sequence in self.decoding}
        gaps = [slot for slot in range(count) if slot not in used]
        outside = [sequence for sequence in self.decoding if sequence.slot >= count]
        for sequence, gap in zip(outside, gaps, strict=True):
            session.move(sequence.slot, gap, sequence.filled)
            sequence.slot = gap
        self.decoding.sort(key=lambda sequence: sequence.slot)

    def restart(self) -> None:
        """The cache is lost: every sequence is read again, and its answer decoded again, in the order it came."""
        everyone = list(self)
        self.decoding, self._reading, self._waiting = [], None, deque(everyone)
        for sequence in everyone:
            sequence.filled = 0
