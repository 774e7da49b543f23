"""One text on its way: its tokens, how much of them is in the cache, and what has been said of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from pipeline.runtime.session import Floats, Logits, TextCodec
from pipeline.tasks.detokenize import PieceDecoder, StopScanner
from pipeline.tasks.pixels import Pixels
from pipeline.tasks.sampling import choose_token, generator
from pipeline.tasks.task import Answer, Job
from schemas.messages import FinishReason, GenerationOptions, TextOutput, Usage

__all__ = ["Prompt", "TextSequence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prepared prompt.

    Attributes:
        tokens: what the model reads.
        options: how to go on.
        outcome_id: seeds its sampling when the caller gave no seed.
        pixels: of its image, if it has one.
        image_at: which of the tokens is the first that stands for the image.
    """

    tokens: tuple[int, ...]
    options: GenerationOptions
    outcome_id: str
    pixels: Pixels | None = None
    image_at: int = 0


class TextSequence:
    """A prompt and its answer so far.

    Args:
        job: the request; its ``stream`` gets the pieces.
        codec: the model's tokenizer.
        eos: tokens that end an answer.
        capacity: tokens that a slot holds.
        image: the rows of its image, float32 [image_tokens, hidden].

    Attributes:
        tokens: prompt and answer.
        filled: how many of them are in the cache.
        slot: where.
        finish_reason: why the answer is complete; ``None`` while it is not.
    """

    def __init__(
        self, job: Job[Prompt], codec: TextCodec, eos: Collection[int], capacity: int, image: Floats | None = None
    ) -> None:
        self.job = job
        self.tokens = list(job.prepared.tokens)
        self.filled = 0
        self.slot = 0
        self.finish_reason: FinishReason | None = None
        options = job.prepared.options
        self._image = image
        self._prompt_tokens = len(self.tokens)
        self._limit = min(options.max_tokens, capacity - self._prompt_tokens)
        self._eos = eos
        self._sampling = (options.temperature, options.top_p, generator(options.seed, job.prepared.outcome_id))
        self._decoder = PieceDecoder(codec.decode)
        self._scanner = StopScanner(options.stop)
        self._said: list[str] = []
        self._steps = 0
        self._mates = 0

    @property
    def unread_prompt(self) -> int:
        """Tokens of the prompt that are not in the cache yet."""
        return max(0, self._prompt_tokens - self.filled)

    def image_rows(self, size: int) -> Floats | None:
        """What stands for the image among the next ``size`` tokens to read: float32 [1, size, hidden], zero elsewhere.

        ``None`` for a text without an image.
        """
        if self._image is None:
            return None
        rows = np.zeros((1, size, self._image.shape[1]), np.float32)
        begin = self.job.prepared.image_at - self.filled
        end = min(begin + len(self._image), size)
        if begin < size and end > 0:
            rows[0, max(begin, 0) : end] = self._image[max(-begin, 0) : end - begin]
        return rows

    def append(self, logits: Logits, batch_size: int = 0) -> None:
        """Choose the next token and say what it completes.

        Args:
            logits: float32 [vocabulary].
            batch_size: how many sequences shared the decoding step; 0 for the one that ended the prompt.
        """
        self._steps += bool(batch_size)
        self._mates += batch_size
        token = choose_token(logits, *self._sampling)
        self.tokens.append(token)
        if token in self._eos:
            self._end("stop")
            return
        text, stopped = self._scanner.push(self._decoder.push(token))
        if stopped:
            self._finish(text, "stop")
        elif self._answered >= self._limit:
            self._end("length", text)
        else:
            self._say(text)

    def answer(self) -> Answer:
        """The whole answer. ``completion_tokens`` counts the token that ended it."""
        if self.finish_reason is None:
            raise RuntimeError("This is a bug: the answer is not complete yet.")
        usage = Usage(
            prompt_tokens=self._prompt_tokens, completion_tokens=self._answered, total_tokens=len(self.tokens)
        )
        output = TextOutput(text="".join(self._said), finish_reason=self.finish_reason)
        return Answer(output=output, usage=usage, batch_size=self._mates / self._steps if self._steps else 1.0)

    @property
    def _answered(self) -> int:
        return len(self.tokens) - self._prompt_tokens

    def _end(self, reason: FinishReason, text: str = "") -> None:
        """End with everything that was held back, unless that completes a stop string."""
        more, stopped = self._scanner.push(self._decoder.flush())
        rest = "" if stopped else self._scanner.flush()
        self._finish(text + more + rest, "stop" if stopped else reason)

    def _finish(self, text: str, reason: FinishReason) -> None:
        self.finish_reason = reason
        self._say(text)

    def _say(self, text: str) -> None:
        self._said.append(text)
        if self.job.stream is not None and (text or self.finish_reason is not None):
            self.job.stream(text, self.finish_reason)
