"""From a question about an image to token ids, with the places that the image's rows take."""

from __future__ import annotations

from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.models.card import TextSpec, VisionSpec
from pipeline.tasks.prompts import PromptReader
from schemas.errors import PrepareError

__all__ = ["DEFAULT_QUESTION", "ImagePrompt", "ImagePromptReader"]

DEFAULT_QUESTION = "Describe the image."
WHERE = "$.prompt"


class ImagePrompt(Struct, frozen=True, kw_only=True):
    """Token ids, and the first of them that stands for the image."""

    tokens: tuple[int, ...]
    image_at: int


class ImagePromptReader:
    """Renders and tokenizes questions. Safe to call from several threads.

    The question goes through the chat template as an image and a text, the way transformers' processors hand them over;
    where the template knows no such parts, as a text with the image's token and a new line before it; and where there
    is no template, as that text alone. The token of the image that a caller writes is plain text.

    Args:
        reader: of the model's texts.
        text: the text part of the card.
        vision: how an image enters the prompt.
        capacity: tokens that a slot holds.

    Raises:
        ModelError: the template refuses every question, no prompt has one place for the image, or a slot is too short
            for an image.
    """

    def __init__(self, reader: PromptReader, text: TextSpec, vision: VisionSpec, capacity: int) -> None:
        self._reader = reader
        self._vision = vision
        self._bos = text.bos_token_id
        self._parts = self._reads_parts()
        try:
            shortest = self._unchecked("")
        except PrepareError as refusal:
            raise ModelError(
                f"{text.chat_template}: {refusal}, a question about an image with and without parts. Mend the template "
                "and build the model again, or build it without one."
            ) from refusal
        if shortest.count(vision.image_token_id) != vision.image_tokens:
            raise ModelError(
                f"the chat template or the tokenizer gives a question {shortest.count(vision.image_token_id)} tokens "
                f"of an image, not {vision.image_tokens}: {vision.image_token!r} must be one special token, put once."
            )
        if len(shortest) + 1 >= capacity:
            raise ModelError(
                f"a question about an image takes at least {len(shortest) + 1} tokens, and a slot holds {capacity}. "
                "Raise batching.max_length."
            )

    def read(self, question: str | None) -> ImagePrompt:
        """The prompt of a question; of the one about everything when there is none. Raises PrepareError."""
        ids = self._reader.checked(self._unchecked(question or DEFAULT_QUESTION), WHERE)
        return ImagePrompt(tokens=tuple(ids), image_at=ids.index(self._vision.image_token_id))

    def _reads_parts(self) -> bool:
        try:
            return self._vision.image_token in (self._reader.render([_in_parts("")], WHERE) or "")
        except PrepareError:  # it wants a text, such as one that it puts between two others
            return False

    def _unchecked(self, question: str) -> list[int]:
        rows = [self._vision.image_token_id] * self._vision.image_tokens
        ids = self._reader.encode(self._rendered(self._reader.plain(question)), WHERE)
        ids = [token for one in ids for token in (rows if one == self._vision.image_token_id else [one])]
        # As transformers' processors do, which tokenize the rendered text like any other.
        return ids if self._bos is None or ids[:1] == [self._bos] else [self._bos, *ids]

    def _rendered(self, question: str) -> str:
        text = f"{self._vision.image_token}\n{question}"
        message = _in_parts(question) if self._parts else {"role": "user", "content": text}
        rendered = self._reader.render([message], WHERE)
        return text if rendered is None else rendered


def _in_parts(question: str) -> dict[str, object]:
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
