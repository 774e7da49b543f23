"""Effectively-once compute: a record that was computed before gets the outcome of that time.

The key is a digest of the outcome's id (topic, partition, offset and the model's digest) and of the whole request. The
request is in it because the place alone does not name a record for ever: a topic that was deleted and made anew has
other records at the same offsets. A record that is read again decodes to the same request, its timestamp included, so
a repeat finds its own outcome and nothing else does.

Only ``ok`` outcomes are kept. An ``expired`` one cost nothing, and time only moves on: the repeat expires too. An
``error`` may pass (a file that was missing, memory that was short), so its repeat deserves another try, and what tells
people of it, the dead letter, is made from the record itself. A kept outcome is published even when its record has
expired since: the work was done in time, and readers may have that outcome already.

Keeping comes after computing and before publishing, so whatever was published can be found.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from pipeline.errors import ResultStoreError
from pipeline.metrics import Metrics
from pipeline.outcomes import stream_pieces
from pipeline.results.alarm import Alarm
from pipeline.results.errand import Errands
from pipeline.results.store import ResultStore
from schemas.messages import InferenceRequest, Outcome, TextOutput, TokenPiece, outcome_id

__all__ = ["Kept", "Question", "Recall"]

RETRY_S = 5.0
FORMAT = 1
SMALL_BYTES = 32_768
"""What is larger, such as an image, is digested off the event loop."""
Emit = Callable[[TokenPiece], None]


class Kept(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is stored for one record: its outcome, and the pieces it was streamed in."""

    outcome: Outcome
    pieces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of the store: is there an outcome of ``request`` with this id? ``key`` has 16 bytes."""

    request: InferenceRequest
    outcome_id: str
    key: bytes

    @classmethod
    async def about(cls, request: InferenceRequest, digest: str) -> Question:
        """The question whether the model with ``digest`` has computed ``request``."""
        name = outcome_id(request.source, digest)
        content = msgspec.msgpack.encode((FORMAT, name, request))
        key = _key(content) if len(content) <= SMALL_BYTES else await asyncio.to_thread(_key, content)
        return cls(request=request, outcome_id=name, key=key)

    def read(self, value: bytes) -> Kept:
        """What ``value`` holds. Raises ResultStoreError when that is no outcome of this record."""
        try:
            kept = msgspec.json.decode(value, type=Kept)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ResultStoreError(f"what it has for {self.request.source} cannot be read: {error}") from error
        if kept.outcome.id != self.outcome_id:
            raise ResultStoreError(f"what it has for {self.request.source} is another record's")
        return kept


def _key(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


class Recall:
    """Asks the store before a record is computed, and keeps what was computed. On the event loop.

    Args:
        store: not opened yet.
        metrics: counts what the store knew and what it did not.
        timeout_s: how long one call may take; a record waits for one call of each kind, and those before it.
        retry_s: time between two attempts while the store does not work.
    """

    def __init__(self, store: ResultStore, metrics: Metrics, *, timeout_s: float, retry_s: float = RETRY_S) -> None:
        self._store = store
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="millrace-results")
        self._alarm = Alarm(store.name, metrics.store_errors)
        self._retry_s = retry_s
        turn = asyncio.Lock()
        self._gets = Errands("get", self._get, self._pool, self._alarm, turn, timeout_s=timeout_s, retry_s=retry_s)
        self._puts = Errands("put", self._put, self._pool, self._alarm, turn, timeout_s=timeout_s, retry_s=retry_s)

    async def start(self) -> None:
        """Open the store; go on without one that is away. Raises SettingsError."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._store.open)
        except ResultStoreError as error:
            for errands, operation in ((self._gets, "get"), (self._puts, "put")):
                errands.rest(self._retry_s)
                self._alarm.failed(operation, str(error))

    async def once(
        self,
        request: InferenceRequest,
        digest: str,
        emit: Emit | None,
        compute: Callable[[Emit | None], Awaitable[Outcome]],
    ) -> Outcome:
        """The kept outcome of ``request``, or else what ``compute`` makes of it, which is kept.

        A kept one is what it was, ``created_at_ms`` and ``timings`` included. If it was streamed, the same pieces go to
        ``emit`` again under the same numbers: a reader that had some of them, or none, gets the rest and the last.
        """
        question = await Question.about(request, digest)
        kept = await self._gets.run(question)
        if kept is not None:
            _stream_again(kept, request, digest, emit)
            return kept.outcome
        pieces: list[str] = []
        outcome = await compute(_noting(emit, pieces))
        if outcome.status == "ok":
            await self._puts.run((question, Kept(outcome=outcome, pieces=tuple(pieces))))
        return outcome

    def stop(self) -> None:
        """Ask no more."""
        self._gets.stop()
        self._puts.stop()

    def join(self) -> None:
        """Wait for what is under way and close the store; blocks."""
        self._pool.shutdown()
        self._store.close()

    def _get(self, questions: Sequence[Question]) -> list[Kept | None]:
        values = self._store.get([question.key for question in questions])
        found = [self._read(question, values.get(question.key)) for question in questions]
        misses = found.count(None)
        self._metrics.store_misses.inc(misses)
        self._metrics.store_hits.inc(len(found) - misses)
        return found

    def _read(self, question: Question, value: bytes | None) -> Kept | None:
        try:
            return None if value is None else question.read(value)
        except ResultStoreError as error:
            self._alarm.note("get", str(error))
            return None

    def _put(self, items: Sequence[tuple[Question, Kept]]) -> list[None]:
        self._store.put({question.key: msgspec.json.encode(kept) for question, kept in items})
        self._metrics.store_puts.inc(len(items))
        return [None] * len(items)


def _noting(emit: Emit | None, pieces: list[str]) -> Emit | None:
    """``emit``, with the text of each piece noted in ``pieces``."""
    if emit is None:
        return None

    def noted(piece: TokenPiece) -> None:
        pieces.append(piece.text)
        emit(piece)

    return noted


def _stream_again(kept: Kept, request: InferenceRequest, digest: str, emit: Emit | None) -> None:
    stream = stream_pieces(request, digest, emit, lambda function, *args: function(*args))
    output = kept.outcome.output
    if stream is None or not isinstance(output, TextOutput):
        return
    *texts, last = kept.pieces or (output.text,)
    for text in texts:
        stream(text, None)
    stream(last, output.finish_reason)
