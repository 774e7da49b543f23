"""Requests and settings for the tests of the pipeline."""

from __future__ import annotations

import io
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct, convert
from PIL import Image

from pipeline.engine import Engine
from pipeline.models.store import ServedModel
from pipeline.runtime.fakes import FakeBackend
from pipeline.runtime.session import Backend
from pipeline.settings import Settings
from pipeline.tasks.batch import BatchModel
from pipeline.tasks.make import batch_model
from pipeline.tasks.task import Answer
from schemas.messages import ImageInput, InferenceRequest, Source, TextInput

OFFSETS = itertools.count()
StartEngine = Callable[..., Awaitable[Engine]]


def settings(**sections: dict[str, Any]) -> Settings:
    return convert(sections, Settings)


def text_request(prompt: str | None = "hello", **fields: Any) -> InferenceRequest:
    offset = next(OFFSETS)
    text = TextInput(**_take(fields, TextInput, prompt=prompt))
    task = None if "model" in fields else "text-generation"
    values: dict[str, Any] = {"id": f"text-{offset}", "task": task, "input": text}
    source = Source(topic="prompts", partition=0, offset=offset)
    return InferenceRequest(**(values | {"source": source} | fields))


def image_request(shade: int = 0, **fields: Any) -> InferenceRequest:
    offset = next(OFFSETS)
    image = ImageInput(**_take(fields, ImageInput, data=png(shade)))
    task = None if "model" in fields else "image-classification"
    values: dict[str, Any] = {"id": f"image-{offset}", "task": task, "input": image}
    source = Source(topic="images", partition=0, offset=offset)
    return InferenceRequest(**(values | {"source": source} | fields))


def opened(model: ServedModel, backend: Backend | None = None) -> BatchModel[Any, Any]:
    """What answers batches of ``model``, on fakes unless a backend is given."""
    task = batch_model(model, "int8", settings(), backend or FakeBackend())
    task.open()
    return task


def answers(model: BatchModel[Any, Any], *requests: InferenceRequest) -> list[Answer]:
    """The answers to ``requests`` as one batch."""
    items = [model.prepare(request)[0] for request in requests]
    rows = model.run(items)
    return [
        model.settle(request, item, row, len(items)) for request, item, row in zip(requests, items, rows, strict=True)
    ]


def _take(fields: dict[str, Any], struct: type[Struct], **defaults: Any) -> dict[str, Any]:
    """``defaults``, with those of ``fields`` that are the struct's, which are taken out of it."""
    return defaults | {name: fields.pop(name) for name in set(fields) & set(struct.__struct_fields__)}


def png(shade: int, size: tuple[int, int] = (8, 8)) -> bytes:
    return encoded(Image.new("L", size, shade), "PNG")


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()
