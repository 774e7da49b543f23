"""Image to text: a question about an image, answered by a decoder that has rows of the image among its tokens.

The vision graph runs once for each request, over those admitted together; its rows enter the prompt, and from there on
the request is a sequence among others (:mod:`pipeline.tasks.decoding`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import ModelError
from pipeline.models.card import ImageSpec, TextSpec, VisionSpec
from pipeline.runtime.isolate import run_batch
from pipeline.runtime.session import Backend, Floats, SessionError
from pipeline.settings import Settings
from pipeline.tasks.decoding import Decoding
from pipeline.tasks.graph import Graph
from pipeline.tasks.image_prompts import ImagePromptReader
from pipeline.tasks.pixels import Pixels, read_pixels
from pipeline.tasks.prompts import PromptReader, load_chat_template
from pipeline.tasks.sequence import Prompt
from pipeline.tasks.task import Job, SessionLost, Settled, StepObserver, why_dropped
from schemas.errors import InferenceError, PrepareError
from schemas.messages import ImageInput, InferenceRequest, outcome_id

__all__ = ["ImageToText"]


class ImageToText:
    """A vision graph and a decoder as a :class:`pipeline.tasks.task.ModelTask`.

    Args:
        path: the decoder's ONNX file; the tokenizer and the chat template are beside it.
        vision_path: the vision graph's.
        digest: of the variant, part of the outcomes' ids.
        text: the text part of the model's card.
        image: the image part.
        vision: how an image enters the decoder.
        observe: told of every step's kind and batch size, and of divided ones.

    Raises:
        ModelError: the chat template has no place for an image, or a slot is too short for one.
    """

    def __init__(
        self,
        path: Path,
        vision_path: Path,
        digest: str,
        *,
        text: TextSpec,
        image: ImageSpec,
        vision: VisionSpec,
        settings: Settings,
        backend: Backend,
        observe: StepObserver,
    ) -> None:
        self._digest = digest
        self._image, self._images, self._vision = image, settings.images, vision
        self._observe = observe
        self._max_batch_size = settings.batching.max_batch_size
        self._graph = Graph(vision_path, backend)
        codec = backend.open_tokenizer(path.parent / text.tokenizer)
        self._decoding = Decoding(path, text, codec, settings.batching, backend, observe, vision.hidden)
        template = load_chat_template(path.parent / text.chat_template) if text.chat_template else None
        reader = PromptReader(text, codec, template, self._decoding.capacity)
        self._reader = ImagePromptReader(reader, text, vision, self._decoding.capacity)
        self._unseen: list[Job[Prompt]] = []
        self._settled: list[Settled[Prompt]] = []

    def open(self) -> str:
        """Load both graphs and warm them up; the decoder's provider."""
        self._open_vision()
        return self._decoding.open()

    def prepare(self, request: InferenceRequest) -> tuple[Prompt, int]:
        """The pixels and the tokens of the prompt, and how many of these there are."""
        asked = request.input
        if not isinstance(asked, ImageInput):
            raise PrepareError("this model reads images, and the record holds text", where="$")
        prompt = self._reader.read(asked.prompt)
        prepared = Prompt(
            tokens=prompt.tokens,
            options=asked,
            outcome_id=outcome_id(request.source, self._digest),
            pixels=read_pixels(request, self._image, self._images),
            image_at=prompt.image_at,
        )
        return prepared, len(prompt.tokens)

    def room(self) -> int:
        """Free slots."""
        return self._decoding.room() - len(self._unseen)

    def busy(self) -> bool:
        """Whether anything is being looked at, read or decoded."""
        return bool(self._unseen) or self._decoding.busy()

    def admit(self, jobs: Sequence[Job[Prompt]]) -> None:
        """Queue images to be looked at."""
        self._unseen.extend(jobs)

    def run(self, now_ms: float, *, isolate: bool) -> list[Settled[Prompt]]:
        """Look at the images that have come, then as text generation does."""
        self._drop(now_ms)
        self._look(isolate=isolate)
        decoded = self._decoding.run(now_ms, isolate=isolate)
        settled, self._settled = self._settled, []
        return settled + decoded

    def recover(self) -> None:
        """Load both graphs again; sequences go on from the tokens they have, and keep the rows of their images."""
        self._open_vision()
        self._decoding.recover()

    def _open_vision(self) -> None:
        self._graph.open()
        wanted = (1, self._vision.image_tokens, self._vision.hidden)
        try:
            rows = self._rows([self._blank()])
        except SessionError as error:
            raise ModelError(f"{self._graph.path}: the warm-up failed: {error}") from error
        if rows.shape != wanted:
            raise ModelError(
                f"{self._graph.path}: an image gives rows of shape {rows.shape}, but the card says {wanted}. Pull or "
                "build the model again."
            )

    def _drop(self, now_ms: float) -> None:
        for job in list(self._unseen):
            if (why := why_dropped(job, now_ms)) is not None:
                self._unseen.remove(job)
                self._settled.append(Settled(job, why))

    def _look(self, *, isolate: bool) -> None:
        """Run the vision graph over one batch; who fails is settled, the others wait to be read."""
        batch = self._unseen[: self._max_batch_size]
        if not batch:
            return
        rows = run_batch(
            lambda chosen: list(self._rows(chosen)),
            [_pixels(job) for job in batch],
            isolate=isolate,
            probe=self._probe,
            observe=self._observe,
        )
        self._unseen = self._unseen[len(batch) :]
        for job, row in zip(batch, rows, strict=True):
            if isinstance(row, SessionError):
                error = InferenceError(f"the model failed on this image: {row}", where="$")
                self._settled.append(Settled(job, error))
            else:
                self._decoding.add(job, row)

    def _rows(self, pixels: Sequence[Pixels]) -> Floats:
        """The rows of each image, float32 [N, image_tokens, hidden]."""
        rows = self._graph.run({"pixels": np.stack(pixels)}, "image_embeds")[0]
        self._observe("batch", len(pixels))
        return rows

    def _blank(self) -> Pixels:
        return np.zeros((self._image.height, self._image.width, self._image.channels), np.uint8)

    def _probe(self) -> None:
        """Tell a record's fault from the session's: run an image known to be good."""
        try:
            self._rows([self._blank()])
        except SessionError as error:
            raise SessionLost(f"{self._graph.path}: the session fails on a blank image: {error}") from error


def _pixels(job: Job[Prompt]) -> Pixels:
    if job.prepared.pixels is None:
        raise RuntimeError("This is a bug: a question about an image was prepared without its pixels.")
    return job.prepared.pixels
