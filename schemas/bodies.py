"""What a caller writes: the fields of a prompt and of an image request, before they become an ``InferenceRequest``.

Plain JSON, the data of a CloudEvent, and Avro or JSON Schema payloads all have these fields; the checked-in schemas are
generated from them. Their fields are those of :class:`~schemas.messages.TextInput` and
:class:`~schemas.messages.ImageInput`, so a bound is written once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any, cast

import msgspec
from msgspec import NODEFAULT, Meta, Struct

from schemas.messages import MAX_STOP_CHARS, MAX_STOPS, ImageInput, ShortText, Task, TextInput

__all__ = ["Attributes", "ImageBody", "PromptBody"]

StopText = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)]
ParameterName = Annotated[str, Meta(min_length=1, max_length=64)]
ParameterText = Annotated[str, Meta(max_length=4_096)]


class Attributes(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What any request may say about itself, in its value or in headers.

    ``expirytime`` is the deadline, RFC 3339 with a time zone (CloudEvents' expirytime extension). ``traceparent`` is
    the W3C trace context; one that is not valid is dropped, as that specification asks, and fails nothing.
    """

    id: Annotated[str, Meta(min_length=1, max_length=1_024)] | None = None
    task: Task | None = None
    model: ShortText | None = None
    model_version: ShortText | None = None
    priority: Annotated[int, Meta(ge=0, le=9)] = 4
    expirytime: Annotated[datetime, Meta(tz=True)] | None = None
    traceparent: str | None = None
    parameters: Annotated[dict[ParameterName, ParameterText | int | float | bool | None], Meta(max_length=64)] = {}


def _fields(struct: type[Struct], replace: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(name, type, default) of each field of ``struct``, as ``msgspec.defstruct`` takes them."""
    for field in msgspec.structs.fields(struct):
        default = field.default
        if default is NODEFAULT:
            default = msgspec.field(default_factory=field.default_factory)
        yield field.name, replace.get(field.name, field.type), default


def _body(name: str, doc: str, fields: Iterable[tuple[str, Any, Any]]) -> type[Attributes]:
    body = msgspec.defstruct(
        name,
        list(fields),
        bases=(Attributes,),
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
        namespace={"__doc__": doc},
    )
    return cast(type[Attributes], body)


# OpenAI takes one stop string as well as a list of them.
_STOP = {"stop": Annotated[tuple[StopText, ...], Meta(max_length=MAX_STOPS)] | StopText}

PromptBody = _body(
    "PromptBody",
    "A prompt request: exactly one of messages and prompt, and what to do with it (OpenAI's names).",
    _fields(TextInput, _STOP),
)

ImageBody = _body(
    "ImageBody",
    "An image request: exactly one of image (the encoded JPEG, PNG or WebP; base64 in JSON) and dataref, and what is "
    "asked about it.",
    [
        ("image", bytes | None, None),
        *(field for field in _fields(ImageInput, _STOP) if field[0] not in {"data", "content_type"}),
    ],
)
