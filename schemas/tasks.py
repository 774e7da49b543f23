"""Which tasks the records of a topic can ask for."""

from __future__ import annotations

from typing import Literal

from schemas.messages import ImageInput, Task, TextInput

__all__ = ["TASKS", "Kind", "kind_of"]

Kind = Literal["prompts", "images"]

TASKS: dict[Kind, tuple[Task, ...]] = {
    "prompts": ("text-generation", "text-classification", "embeddings"),
    "images": (
        "image-classification",
        "object-detection",
        "zero-shot-image-classification",
        "image-to-text",
        "embeddings",
    ),
}
"""The first is what a record asks for that names neither a task nor a model."""


def kind_of(asked: TextInput | ImageInput) -> Kind:
    """The kind of record that ``asked`` came in."""
    return "prompts" if isinstance(asked, TextInput) else "images"
