"""Tries a model's chat template on chats that every chat model is sent, before anybody's record meets it."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Template

from pipeline.errors import ModelError
from pipeline.factory.progress import Progress
from pipeline.models.card import TextSpec
from pipeline.models.store import ServedModel
from pipeline.tasks.prompts import load_chat_template

__all__ = ["check_chats"]

MAX_ERROR_CHARS = 500
WORDS = "Hello there."
ONE_TURN = ("user",)
FURTHER = {
    "of several turns": ("user", "assistant", "user"),
    "with a system message": ("system", "user", "assistant", "user"),
}
"""What a sound template may refuse, and the roles that tell."""


def check_chats(model: ServedModel, warn: Progress) -> None:
    """See what the chat template of a text generation model takes; ``warn`` is told of a kind of chat that it refuses.

    Raises:
        ModelError: it takes no chat at all, or it cannot be read.
    """
    text = model.card.text
    if model.card.task != "text-generation" or text is None or text.chat_template is None:
        return
    template = load_chat_template(model.folder / text.chat_template)
    if (why := _refusal(template, text, ONE_TURN)) is not None:
        raise ModelError(
            f"model {model.spec}: its chat template takes no chat: {why}. Mend it in chat_template.jinja or "
            "tokenizer_config.json of the source, or leave it out there: the model then continues plain prompts."
        )
    for kind, roles in FURTHER.items():
        if (why := _refusal(template, text, roles)) is not None:
            warn(
                f"its chat template takes no chat {kind}: {why}. Records with such a chat will fail, each alone; "
                "others are served."
            )
            return


def _refusal(template: Template, text: TextSpec, roles: Sequence[str]) -> str | None:
    """Why the template takes no chat of ``roles``; ``None`` if it does."""
    messages = [{"role": role, "content": WORDS} for role in roles]
    try:
        rendered = template.render(messages=messages, add_generation_prompt=True, **text.special)
    except Exception as error:  # a template calls what it likes on what it is given
        return " ".join(str(error)[:MAX_ERROR_CHARS].split()).rstrip(".")
    return None if WORDS in rendered else "nothing of what the user says is in what it makes"
