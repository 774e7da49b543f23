"""Text generation: prompts and conversations in, and how they go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.models.card import TextSpec
from pipeline.runtime.session import Backend
from pipeline.settings import Settings
from pipeline.tasks.decoding import Decoding
from pipeline.tasks.prompts import PromptReader, load_chat_template
from pipeline.tasks.sequence import Prompt
from pipeline.tasks.task import Job, Settled, StepObserver
from schemas.errors import PrepareError
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
        self._digest = digest
        self._codec = backend.open_tokenizer(folder / spec.tokenizer)
        self._decoding = Decoding(path, spec, self._codec, settings.batching, backend, observe)
        template = load_chat_template(folder / spec.chat_template) if spec.chat_template else None
        self._reader = PromptReader(spec, self._codec, template, self._decoding.capacity)

    def open(self) -> str:
        """Load the decoder, make its cache and warm both up; the provider's name."""
        return self._decoding.open()

    def prepare(self, request: InferenceRequest) -> tuple[Prompt, int]:
        """The tokens of the prompt, and how many there are."""
        if not isinstance(request.input, TextInput):
            raise PrepareError("this model reads text, and the record holds an image", where="$")
        tokens = tuple(self._reader.read(request.input))
        name = outcome_id(request.source, self._digest)
        return Prompt(tokens=tokens, options=request.input, outcome_id=name), len(tokens)

    def room(self) -> int:
        """Free slots."""
        return self._decoding.room()

    def busy(self) -> bool:
        """Whether anything is being read or decoded."""
        return self._decoding.busy()

    def admit(self, jobs: Sequence[Job[Prompt]]) -> None:
        """Queue prompts for reading."""
        for job in jobs:
            self._decoding.add(job)

    def run(self, now_ms: float, *, isolate: bool) -> list[Settled[Prompt]]:
        """Read up to one chunk of prompts, then decode one token of every answer."""
        return self._decoding.run(now_ms, isolate=isolate)

    def recover(self) -> None:
        """Load the decoder again; sequences go on from the tokens they have."""
        self._decoding.recover()
