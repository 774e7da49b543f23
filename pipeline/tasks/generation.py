"""Text generation by continuous batching: requests join and leave between any two decoding steps.

The idea is Orca's iteration-level scheduling (Yu et al., OSDI 2022); prompts are read in chunks between steps (Agrawal
et al. 2023, arXiv:2308.16369), so a long prompt never stalls the others. Where a prompt is cut depends on its length
alone: who shares the device changes when an answer comes, not what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import ModelError
from pipeline.models.card import TextSpec
from pipeline.runtime.isolate import run_batch
from pipeline.runtime.session import Backend, CacheLayout, DecoderSession, IntArray, Logits, SessionError
from pipeline.settings import Settings
from pipeline.tasks.prompts import PromptReader, load_chat_template
from pipeline.tasks.sequence import Prompt, TextSequence
from pipeline.tasks.slots import Slots
from pipeline.tasks.task import Dropped, Job, Result, SessionLost, Settled, StepObserver, why_dropped
from schemas.errors import InferenceError, PrepareError
from schemas.messages import InferenceRequest, TextInput, outcome_id

__all__ = ["TextGeneration"]


class TextGeneration:
    """A decoder as a :class:`pipeline.tasks.task.ModelTask`.

    Args:
        path: the ONNX file.
        digest: its SHA-256, part of the outcomes' ids.
        folder: where the tokenizer and the chat template are.
        spec: the text part of the model's card.
        observe: told of every step's kind and batch size, and of divided ones.
    """

    def __init__(
        self,
        path: Path,
        digest: str,
        folder: Path,
        spec: TextSpec,
        settings: Settings,
        backend: Backend,
        observe: StepObserver,
    ) -> None:
        self._path = path
        self._digest = digest
        self._spec = spec
        self._backend = backend
        self._observe = observe
        self._chunk = settings.batching.prefill_chunk_tokens
        self._capacity = min(settings.batching.max_length, spec.max_length)
        self._eos = frozenset(spec.eos_token_ids)
        self._codec = backend.open_tokenizer(folder / spec.tokenizer)
        template = load_chat_template(folder / spec.chat_template) if spec.chat_template else None
        self._reader = PromptReader(spec, self._codec, template, self._capacity)
        self._max_slots = settings.batching.max_slots
        self._slots = Slots(self._max_slots)
        self._decoder: DecoderSession | None = None
        self._settled: list[Settled[Prompt]] = []
        self._isolate = False

    def open(self) -> str:
        """Load the decoder, make its cache and warm both up; the provider's name."""
        layout = CacheLayout(
            layers=self._spec.layers,
            slots=self._max_slots + 1,  # The last one is for probes, which must not write into anybody's cache.
            kv_heads=self._spec.kv_heads,
            max_length=self._capacity,
            head_size=self._spec.head_size,
            vocabulary=self._spec.vocabulary,
        )
        self._decoder = self._backend.open_decoder(self._path, layout)
        self._warm_up()
        return self._decoder.provider

    def prepare(self, request: InferenceRequest) -> tuple[Prompt, int]:
        """The tokens of the prompt, and how many there are."""
        if not isinstance(request.input, TextInput):
            raise PrepareError("this model reads text, and the record holds an image", where="$")
        tokens = tuple(self._reader.read(request.input))
        name = outcome_id(request.source, self._digest)
        return Prompt(tokens=tokens, text=request.input, outcome_id=name), len(tokens)

    def room(self) -> int:
        """Free slots."""
        return self._slots.free()

    def busy(self) -> bool:
        """Whether anything is being read or decoded."""
        return len(self._slots) > 0

    def admit(self, jobs: Sequence[Job[Prompt]]) -> None:
        """Queue prompts for reading."""
        for job in jobs:
            self._slots.add(TextSequence(job, self._codec, self._eos, self._capacity))

    def run(self, now_ms: float, *, isolate: bool) -> list[Settled[Prompt]]:
        """Read up to one chunk of prompts, then decode one token of every answer."""
        self._isolate = isolate
        self._drop(now_ms)
        self._prefill()
        self._decode()
        settled, self._settled = self._settled, []
        return settled

    def recover(self) -> None:
        """Load the decoder again; sequences go on from the tokens they have."""
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
            size = min(reader.unread, self._chunk) if reader else 0
            if reader is None or size > budget:
                return
            budget -= size
            self._read_chunk(reader, size)

    def _read_chunk(self, reader: TextSequence, size: int) -> None:
        chunk = np.array([reader.tokens[reader.filled : reader.filled + size]], np.int64)
        row = self._step([reader], chunk, "prefill")[0]
        if isinstance(row, SessionError):
            self._fail(reader, row)
            return
        reader.filled += size
        if reader.unread == 0:
            self._slots.start_decoding()
            self._append(reader, row, 0)

    def _decode(self) -> None:
        self._compact()
        sequences = list(self._slots.decoding)
        if not sequences:
            return
        last = np.array([[sequence.tokens[-1]] for sequence in sequences], np.int64)
        rows = self._step(sequences, last, "decode")
        for sequence, row in zip(sequences, rows, strict=True):
            if isinstance(row, SessionError):
                self._fail(sequence, row)
            else:
                sequence.filled += 1
                self._append(sequence, row, len(sequences))

    def _append(self, sequence: TextSequence, logits: Logits, batch_size: int) -> None:
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

    def _step(self, sequences: Sequence[TextSequence], ids: IntArray, kind: str) -> list[Logits | SessionError]:
        """One step of neighbours in the cache, ``ids`` int64 [N, S]; each one's fault is its own.

        A step that fails has advanced nobody: what it wrote into the cache lies beyond everybody's tokens, and the
        same step, run again, writes it anew before it reads it. So a step may be repeated, and divided.
        """

        def step(chosen: Sequence[int]) -> Sequence[Logits]:
            logits = self._rows(sequences, ids, chosen)
            self._observe(kind, len(chosen) * ids.shape[1])
            # The session's buffer is written again by the next part of a divided batch.
            return list(logits if len(chosen) == len(sequences) else logits.copy())

        return run_batch(
            step,
            range(len(sequences)),
            isolate=self._isolate,
            probe=self._probe,
            bisecting=lambda: self._observe("bisection", 1),
        )

    def _rows(self, sequences: Sequence[TextSequence], ids: IntArray, chosen: Sequence[int]) -> Logits:
        """Logits of the ``chosen`` ones. A run is over neighbours, so those between them get a blank token."""
        span = np.arange(chosen[0], chosen[-1] + 1)
        fed = np.where(np.isin(span, chosen)[:, None], ids[span], 0)
        lengths = np.array([sequence.filled for sequence in sequences[chosen[0] : chosen[-1] + 1]], np.int64)
        logits = self._session().step(sequences[chosen[0]].slot, fed, lengths)
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
            for rows, tokens in ((1, min(self._chunk, self._capacity - 1)), (1, 1), (self._max_slots, 1)):
                shape = self._blank_step(0, rows, tokens).shape
                if shape != (rows, self._spec.vocabulary):
                    raise ModelError(
                        f"{self._path}: {rows} sequences give logits of shape {shape}, but the card says a vocabulary "
                        f"of {self._spec.vocabulary}. Pull or build the model again."
                    )
        except SessionError as error:
            raise ModelError(f"{self._path}: the warm-up failed: {error}") from error

    def _blank_step(self, slot: int, rows: int, tokens: int) -> Logits:
        return self._session().step(slot, np.zeros((rows, tokens), np.int64), np.zeros(rows, np.int64))
