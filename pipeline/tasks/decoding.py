"""Continuous batching: sequences join and leave between any two decoding steps.

The idea is Orca's iteration-level scheduling (Yu et al., OSDI 2022); prompts are read in chunks between steps (Agrawal
et al. 2023, arXiv:2308.16369), so a long prompt never stalls the others. Where a prompt is cut depends on its length
alone: who shares the device changes when an answer comes, not what it is.

Nor does it matter where a prompt is cut, or that it is read again because the session was lost. How many tokens are
read together changes nothing of what a graph makes of them, but of one alone it makes the last digits otherwise. So no
token of a prompt is read alone, unless there is no other, and each token of an answer is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import ModelError
from pipeline.models.card import TextSpec
from pipeline.runtime.isolate import run_batch
from pipeline.runtime.session import (
    Backend,
    CacheLayout,
    DecoderSession,
    Floats,
    IntArray,
    Logits,
    SessionError,
    TextCodec,
)
from pipeline.settings import BatchingSettings
from pipeline.tasks.sequence import Prompt, TextSequence
from pipeline.tasks.slots import Slots
from pipeline.tasks.task import Dropped, Job, Result, SessionLost, Settled, StepObserver, why_dropped
from schemas.errors import InferenceError

__all__ = ["Decoding"]


class Decoding:
    """A decoder, its cache, and the sequences that share it. Called on the runner's device thread alone.

    Args:
        path: the ONNX file.
        spec: the text part of the model's card.
        codec: its tokenizer.
        settings: how many sequences there may be, and how long.
        backend: opens the decoder.
        observe: told of every step's kind and batch size, and of divided ones.
        hidden: the width of an image's rows; ``None`` for a decoder that reads no images.

    Attributes:
        capacity: tokens that a slot holds, prompt and answer together.
    """

    def __init__(
        self,
        path: Path,
        spec: TextSpec,
        codec: TextCodec,
        settings: BatchingSettings,
        backend: Backend,
        observe: StepObserver,
        hidden: int | None = None,
    ) -> None:
        self._path = path
        self._spec = spec
        self._codec = codec
        self._backend = backend
        self._observe = observe
        self._hidden = hidden
        self._chunk = settings.prefill_chunk_tokens
        self._eos = frozenset(spec.eos_token_ids)
        self._max_slots = settings.max_slots
        self._slots = Slots(self._max_slots)
        self._decoder: DecoderSession | None = None
        self._settled: list[Settled[Prompt]] = []
        self._isolate = False
        self.capacity = min(settings.max_length, spec.max_length)

    def open(self) -> str:
        """Load the decoder, make its cache and warm both up; the provider's name. Raises ModelError."""
        # The last one is for probes, which must not write into anybody's cache.
        layout = CacheLayout.of(self._spec, slots=self._max_slots + 1, max_length=self.capacity)
        self._decoder = self._backend.open_decoder(self._path, layout)
        self._warm_up()
        return self._decoder.provider

    def room(self) -> int:
        """Free slots."""
        return self._slots.free()

    def busy(self) -> bool:
        """Whether anything is being read or decoded."""
        return len(self._slots) > 0

    def add(self, job: Job[Prompt], image: Floats | None = None) -> None:
        """Queue a prompt for reading; ``image`` float32 [image_tokens, hidden] are the rows of its image."""
        self._slots.add(TextSequence(job, self._codec, self._eos, self.capacity, image))

    def run(self, now_ms: float, *, isolate: bool) -> list[Settled[Prompt]]:
        """Read up to one chunk of prompts, then decode one token of every answer; see ``ModelTask.run``."""
        self._isolate = isolate
        self._drop(now_ms)
        self._prefill()
        self._decode()
        settled, self._settled = self._settled, []
        return settled

    def recover(self) -> None:
        """Load the decoder again; sequences go on from the tokens they have. Raises ModelError."""
        self._decoder = None
        self._slots.restart()
        self.open()

    def _drop(self, now_ms: float) -> None:
        for sequence in self._slots.take(lambda it: why_dropped(it.job, now_ms) is not None):
            self._settle(sequence, why_dropped(sequence.job, now_ms) or Dropped.CANCELLED)

    def _prefill(self) -> None:
        budget = self._chunk
        while True:
            self._compact()
            reader = self._slots.reader()
            size = min(reader.unread_prompt, self._chunk) if reader else 0
            if reader is None or size > budget:
                return
            budget -= size
            self._read_chunk(reader, size)

    def _read_chunk(self, reader: TextSequence, size: int) -> None:
        end = reader.filled + size
        reader.filled = max(0, min(reader.filled, end - 2))  # a last token alone is read with the one before it
        chunk = np.array([reader.tokens[reader.filled : end]], np.int64)
        row = self._step([reader], chunk, "prefill", reader.image_rows(end - reader.filled))[0]
        if isinstance(row, SessionError):
            self._fail(reader, row)
            return
        reader.filled = end
        if reader.unread_prompt == 0:
            self._slots.start_decoding()
            self._go_on(reader, row, 0)

    def _decode(self) -> None:
        self._compact()
        sequences = list(self._slots.decoding)
        if not sequences:
            return
        tokens = np.array([[sequence.tokens[sequence.filled]] for sequence in sequences], np.int64)
        rows = self._step(sequences, tokens, "decode")
        for sequence, row in zip(sequences, rows, strict=True):
            if isinstance(row, SessionError):
                self._fail(sequence, row)
            else:
                sequence.filled += 1
                self._go_on(sequence, row, len(sequences))

    def _go_on(self, sequence: TextSequence, logits: Logits, batch_size: int) -> None:
        if sequence.filled < len(sequence.tokens):
            return  # what follows was chosen before the session was lost
        if not np.isfinite(logits.max()):
            self._fail(sequence, SessionError("its logits are not finite"))
            return
        sequence.append(logits, batch_size)
        self._observe("token", 1)
        if sequence.finish_reason is not None:
            self._slots.take(lambda it: it is sequence)
            self._settle(sequence, sequence.answer())

    def _fail(self, sequence: TextSequence, error: SessionError) -> None:
        self._slots.take(lambda it: it is sequence)
        self._settle(sequence, InferenceError(f"the model failed on this prompt: {error}", where="$"))

    def _settle(self, sequence: TextSequence, result: Result) -> None:
        self._settled.append(Settled(sequence.job, result))

    def _step(
        self, sequences: Sequence[TextSequence], ids: IntArray, kind: str, image: Floats | None = None
    ) -> list[Logits | SessionError]:
        """One step of neighbours in the cache, ``ids`` int64 [N, S]; each one's fault is its own.

        A step that fails has advanced nobody: what it wrote into the cache lies beyond everybody's tokens, and the
        same step, run again, writes it anew before it reads it. So a step may be repeated, and divided.
        """

        def step(chosen: Sequence[int]) -> Sequence[Logits]:
            logits = self._rows(sequences, ids, chosen, image)
            self._observe(kind, len(chosen) * ids.shape[1])
            # The session's buffer is written again by the next part of a divided batch.
            return list(logits if len(chosen) == len(sequences) else logits.copy())

        return run_batch(
            step,
            range(len(sequences)),
            isolate=self._isolate,
            probe=self._probe,
            observe=self._observe,
        )

    def _rows(
        self, sequences: Sequence[TextSequence], ids: IntArray, chosen: Sequence[int], image: Floats | None
    ) -> Logits:
        """Logits of the ``chosen`` ones. A run is over neighbours, so those between them get a blank token."""
        span = np.arange(chosen[0], chosen[-1] + 1)
        fed = np.where(np.isin(span, chosen)[:, None], ids[span], 0)
        lengths = np.array([sequence.filled for sequence in sequences[chosen[0] : chosen[-1] + 1]], np.int64)
        logits = self._session().step(sequences[chosen[0]].slot, fed, lengths, image)
        return logits if len(chosen) == len(span) else logits[np.array(chosen) - chosen[0]]

    def _compact(self) -> None:
        try:
            self._slots.compact(self._session())
        except SessionError as error:
            raise SessionLost(f"{self._path}: the cache cannot be moved: {error}") from error

    def _session(self) -> DecoderSession:
        if self._decoder is None:
            raise SessionError("the decoder is not open")
        return self._decoder

    def _probe(self) -> None:
        """Tell a record's fault from the session's: run a step known to be good, in the spare slot."""
        try:
            self._blank_step(self._max_slots, 1, 1)
        except SessionError as error:
            raise SessionLost(f"{self._path}: the session fails on a blank prompt: {error}") from error

    def _warm_up(self) -> None:
        try:
            for rows, tokens in ((1, min(self._chunk, self.capacity - 1)), (1, 1), (self._max_slots, 1)):
                shape = self._blank_step(0, rows, tokens).shape
                if shape != (rows, self._spec.vocabulary):
                    raise ModelError(
                        f"{self._path}: {rows} sequences give logits of shape {shape}, but the card says a vocabulary "
                        f"of {self._spec.vocabulary}. Pull or build the model again."
                    )
        except SessionError as error:
            raise ModelError(f"{self._path}: the warm-up failed: {error}") from error

    def _blank_step(self, slot: int, rows: int, tokens: int) -> Logits:
        image = None if self._hidden is None else np.zeros((rows, tokens, self._hidden), np.float32)
        return self._session().step(slot, np.zeros((rows, tokens), np.int64), np.zeros(rows, np.int64), image)
