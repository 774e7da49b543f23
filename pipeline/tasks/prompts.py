"""From a request's messages or prompt to token ids that fit a slot.

Special tokens belong to the chat template: one that is written in a message is plain text, so nobody can end their own
message and speak as somebody else. A ``prompt`` is taken as it is, special tokens included: it is the whole of what the
model reads, and writing it means writing its template.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Template

from pipeline.errors import ModelError
from pipeline.models.card import TextSpec
from pipeline.runtime.session import TextCodec
from pipeline.tasks.sandbox import BoundError, compile_template
from schemas.errors import PrepareError
from schemas.messages import TextInput

__all__ = ["PromptReader", "load_chat_template"]

# No tokenizer in use has longer tokens than this, so a text with more characters than it allows need not be tokenized.
MAX_TOKEN_CHARS = 256
# Stands in a message where a special token written there is cut in two. It is a noncharacter (Unicode 23.7), which no
# text for interchange holds; one that does loses it.
CUT = "\ufdd0"
MAX_ERROR_CHARS = 500
# A model's template is tried on this once, before anybody's record.
TRIAL = tuple({"role": role, "content": "Hello there."} for role in ("user", "assistant", "user"))


class PromptReader:
    """Renders and tokenizes prompts. Safe to call from several threads.

    Args:
        spec: the model's text part of the card.
        codec: its tokenizer.
        template: its chat template, if it has one.
        capacity: tokens that a slot holds, prompt and answer together.

    Raises:
        ModelError: the template goes beyond the bounds of :mod:`pipeline.tasks.sandbox` on three short messages.
    """

    def __init__(self, spec: TextSpec, codec: TextCodec, template: Template | None, capacity: int) -> None:
        self._spec = spec
        self._codec = codec
        self._template = template
        self._capacity = capacity
        self._special = _beginnings(codec.special_tokens)
        self._try()

    def read(self, text: TextInput) -> list[int]:
        """Token ids of the prompt; at least one, and room for one more in the slot.

        Raises:
            PrepareError: there is a conversation but no chat template, the template refuses it, or it is too long.
        """
        if text.prompt is None:
            return self.checked(self.encode(self._conversation(text), "$.messages"), "$.messages")
        self._check_chars(text.prompt, "$.prompt")
        begin = [] if self._spec.bos_token_id is None else [self._spec.bos_token_id]
        return self.checked([*begin, *self._codec.encode(text.prompt)], "$.prompt")

    def plain(self, content: str) -> str:
        """``content`` with each special token cut after its first character, for :meth:`encode` to read as text."""
        return content if self._special is None else self._special.sub(rf"\1{CUT}", content)

    def render(self, messages: Sequence[Mapping[str, Any]], where: str) -> str | None:
        """What the chat template makes of ``messages``; ``None`` without one. Raises PrepareError if it refuses."""
        if self._template is None:
            return None
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._spec.special)
        except Exception as error:  # A template calls what it likes on what it is given.
            why = str(error)[:MAX_ERROR_CHARS]
            raise PrepareError(f"the model's chat template refuses the messages: {why}", where=where) from error

    def encode(self, rendered: str, where: str) -> list[int]:
        """Token ids of a rendered prompt, where :meth:`plain` parts hold no special tokens. Raises PrepareError."""
        self._check_chars(rendered, where)
        return [token for part in rendered.split(CUT) for token in self._codec.encode(part)]

    def checked(self, ids: list[int], where: str) -> list[int]:
        """``ids``, if a slot has room for them and for an answer. Raises PrepareError."""
        if not ids:
            raise PrepareError("the prompt has no tokens. Send some text.", where=where)
        if len(ids) >= self._capacity:
            raise self._too_long(f"{len(ids)} tokens", where)
        if min(ids) < 0 or max(ids) >= self._spec.vocabulary:
            raise PrepareError("the tokenizer gave a token that the model does not know", where=where)
        return ids

    def _try(self) -> None:
        try:
            self.render(TRIAL, "$.messages")
        except PrepareError as refusal:  # It may want something else of a conversation.
            if isinstance(refusal.__cause__, BoundError):
                raise ModelError(
                    f"{self._spec.chat_template}: the chat template cannot be served, for on three short messages "
                    f"{refusal.__cause__} Take the model from where you trust it, or mend the template."
                ) from refusal

    def _conversation(self, text: TextInput) -> str:
        messages = [{"role": message.role, "content": self.plain(message.content)} for message in text.messages]
        rendered = self.render(messages, "$.messages")
        return self.plain(_only_message(text)) if rendered is None else rendered

    def _check_chars(self, prompt: str, where: str) -> None:
        if len(prompt) > self._capacity * MAX_TOKEN_CHARS:
            raise self._too_long(f"{len(prompt)} characters", where)

    def _too_long(self, found: str, where: str) -> PrepareError:
        return PrepareError(
            f"the prompt has {found}, and this model holds {self._capacity} tokens with at least 1 for the answer: "
            f"shorten it to {self._capacity - 1} tokens",
            where=where,
        )


def _beginnings(special_tokens: Sequence[str]) -> re.Pattern[str] | None:
    """Matches the first character of each special token, also of those that overlap."""
    tokens = "|".join(re.escape(token) for token in special_tokens)
    return re.compile(f"(?=(?:{tokens}))(.)", re.DOTALL) if tokens else None


def _only_message(text: TextInput) -> str:
    """What a model that only continues text is given of a chat: a lone message. Raises PrepareError for more."""
    if len(text.messages) != 1:
        raise PrepareError(
            "this model has no chat template, so it cannot read a conversation: send one message, or 'prompt'",
            where="$.messages",
        )
    return text.messages[0].content


def load_chat_template(file: Path) -> Template:
    """Compile a chat template as Hugging Face's transformers does: sandboxed, block lines trimmed, loops that break.

    It has no clock (``strftime_now``): a record that is read again becomes the same prompt. What it may take is bounded
    (:mod:`pipeline.tasks.sandbox`).

    Raises:
        ModelError: it cannot be read or has an error.
    """
    try:
        return compile_template(file.read_text(encoding="utf-8"))
    except Exception as error:  # Jinja's and Python's parsers raise of their own, too, such as RecursionError
        raise ModelError(f"{file}: the chat template cannot be read: {error}") from error
