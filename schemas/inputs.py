"""The input of a request out of its checked body: the rules that span several fields."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from schemas.bodies import Attributes
from schemas.errors import DecodeError, ValidationError
from schemas.images import name_format, sniff_image
from schemas.messages import ImageInput, TextInput
from schemas.payloads import Fields

__all__ = ["image_input", "text_input"]


def text_input(body: Attributes, fields: Fields, root: str) -> TextInput:
    """The prompt of a checked ``PromptBody``.

    Raises:
        ValidationError: not exactly one of ``messages`` and ``prompt`` is given, or what is asked is blank.
    """
    text = TextInput(**_shared(body, TextInput))
    if bool(text.messages) == (text.prompt is not None):
        found = "both are given" if text.messages else "none is given"
        raise ValidationError(f"exactly one of 'messages' and 'prompt' is needed; {found}.", where=root)
    name, said = ("messages", text.messages[-1].content) if text.prompt is None else ("prompt", text.prompt)
    if not said.strip():
        where = fields.places.get(name, f"{root}.{name}")
        raise ValidationError("the prompt has nothing but white space.", where=where)
    return text


def image_input(body: Attributes, fields: Fields, root: str) -> ImageInput:
    """The image of a checked ``ImageBody``, or the reference to it. An envelope's ``dataref`` yields to an image.

    Raises:
        DecodeError: the image is no JPEG, PNG or WebP.
        ValidationError: not exactly one of ``image`` and ``dataref`` is given, or a template has no place for labels.
    """
    values, image = _shared(body, ImageInput), getattr(body, "image")  # noqa: B009 - a field of a generated struct
    if "{}" not in (values["hypothesis_template"] or "{}"):
        raise ValidationError(
            "hypothesis_template has no '{}'. Write it where the label belongs, as in 'a photo of a {}'.",
            where=f"{root}.hypothesis_template",
        )
    if image is None:
        if values["dataref"] is None:
            raise ValidationError("exactly one of 'image' and 'dataref' is needed; none is given.", where=root)
        return ImageInput(**values)
    if values["dataref"] is not None and "dataref" not in fields.places:
        raise ValidationError("exactly one of 'image' and 'dataref' is needed; both are given.", where=root)
    media_type = sniff_image(image)
    if media_type is None:
        raise DecodeError(
            f"not a JPEG, PNG or WebP image but {name_format(image)}.",
            where=fields.places.get("image", f"{root}.image"),
        )
    return ImageInput(**values | {"data": image, "content_type": media_type, "dataref": None})


def _shared(body: Attributes, kind: type[Struct]) -> dict[str, Any]:
    """The fields that ``body`` and ``kind`` have in common; one stop string is a list of one."""
    values = {name: getattr(body, name) for name in kind.__struct_fields__ if name in body.__struct_fields__}
    if isinstance(values["stop"], str):
        values["stop"] = (values["stop"],)
    return values
