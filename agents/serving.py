"""From a record's bytes to its reply: decode, ask the engine, and put every failure of the record into an outcome."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from agents.publisher import OutgoingRecord
from agents.records import UNREADABLE_HEADERS
from schemas.dead_letters import PREFIX, dead_letter
from schemas.errors import DecodeError, RecordError, RegistryError
from schemas.limits import MAX_KEY_BYTES
from schemas.outcomes import encode_outcome, encode_token, error_outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from schemas.codecs import Decoder
    from schemas.messages import InferenceRequest, Outcome, TokenPiece
    from schemas.records import RawRecord

__all__ = ["Reply", "Route", "Server", "SubmitsRequests"]

LOG = logging.getLogger("millrace.serving")
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 30.0


class SubmitsRequests(Protocol):
    """What serving needs of the engine."""

    async def submit(self, request: InferenceRequest, *, emit: Callable[[TokenPiece], None] | None = None) -> Outcome:
        """The outcome of ``request``. Raises RecordError for it alone, EngineError when nothing can be served."""


class Route(NamedTuple):
    """How records of one topic are read and where their outcomes go.

    ``asks_registry`` says that decoding may wait for the network, so it must not run on the event loop.
    """

    decoder: Decoder
    results: str
    asks_registry: bool = False


class Reply(NamedTuple):
    """What to publish for one record: its outcome, and a dead letter if it could not be served."""

    outcome: Outcome
    letter: OutgoingRecord | None


class Server:
    """Serves records of the routed topics.

    Args:
        engine: where requests are computed.
        routes: by input topic.
        dead_letters: topic of the records that cannot be served.
        worker: this worker's name, for dead letters.
        max_letter_bytes: the largest dead letter that its topic takes, uncompressed.

    Attributes:
        waits: how often a record had to wait for the schema registry.
    """

    def __init__(
        self,
        engine: SubmitsRequests,
        routes: Mapping[str, Route],
        *,
        dead_letters: str,
        worker: str,
        max_letter_bytes: int,
    ) -> None:
        self._engine = engine
        self._routes = dict(routes)
        self._dead_letters = dead_letters
        self._worker = worker
        self._max_letter_bytes = max_letter_bytes
        self.waits = 0

    async def serve(self, record: RawRecord, emit: Callable[[TokenPiece], None]) -> Reply:
        """The reply to ``record``. Raises EngineError when it must stay uncommitted."""
        request: InferenceRequest | None = None
        try:
            if record.headers is UNREADABLE_HEADERS:
                raise DecodeError("a header's name is not UTF-8. Headers are named in UTF-8.", where="headers")
            request = await self._decode(self._routes[record.topic], record)
            return Reply(await self._engine.submit(request, emit=emit), None)
        except RecordError as error:
            outcome = error_outcome(record, error, request, error.model, now_ms=time.time_ns() // 1_000_000)
            letter = dead_letter(record, error, self._worker)
            outgoing = OutgoingRecord(self._dead_letters, letter.key, letter.value, list(letter.headers))
            return Reply(outcome, _fitting(outgoing, self._max_letter_bytes))

    def encode(self, record: RawRecord, reply: Reply) -> list[OutgoingRecord]:
        """The records to publish for ``reply``: the dead letter, if there is one, before the outcome."""
        value, headers = encode_outcome(reply.outcome)
        # A key that was refused for its size would make the outcome as large; its digest stands in the value.
        key = record.key if len(record.key or b"") <= MAX_KEY_BYTES else None
        outcome = OutgoingRecord(self._routes[record.topic].results, key, value, list(headers))
        return [outcome] if reply.letter is None else [reply.letter, outcome]

    async def _decode(self, route: Route, record: RawRecord) -> InferenceRequest:
        """The request in ``record``; while the schema registry is away the record waits, for it may be fine."""
        if not route.asks_registry:
            return route.decoder.decode(record)
        wait_s = FIRST_RETRY_S
        while True:
            try:
                return await asyncio.to_thread(route.decoder.decode, record)
            except RegistryError as error:
                LOG.warning("%s waits for the schema registry (%s); next try in %g s", record.name, error, wait_s)
                self.waits += 1
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, LAST_RETRY_S)


def _fitting(letter: OutgoingRecord, max_bytes: int) -> OutgoingRecord:
    """``letter``, or what is left of one that no topic would take: a record may unpack to far more than it came as."""
    headers = [(name, value or b"") for name, value in letter.headers]
    size = len(letter.key or b"") + len(letter.value or b"") + sum(len(name) + len(value) for name, value in headers)
    if size <= max_bytes:
        return letter
    digest = hashlib.sha256(letter.value or b"").hexdigest()
    note = f"{size:,} bytes unpacked, more than {max_bytes:,}; the value's SHA-256 is {digest}"
    kept = [header for header in letter.headers if header[0].startswith(PREFIX)]
    return OutgoingRecord(letter.topic, None, None, [("millrace.omitted", note.encode()), *kept])


def encode_piece(topic: str, key: bytes | None, piece: TokenPiece) -> OutgoingRecord:
    """The record that carries one piece of a streamed answer."""
    value, headers = encode_token(piece)
    return OutgoingRecord(topic, key, value, list(headers))
