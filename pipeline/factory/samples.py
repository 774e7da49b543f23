"""Samples that a model is calibrated and measured on: texts or images, with the right answer where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.models.store import ServedModel
from schemas.messages import ChatMessage, ImageInput, InferenceRequest, Source, Task, TextInput

__all__ = ["Sample", "check_kinds", "read_samples", "request_of", "sample_of"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


class Sample(Struct, frozen=True, kw_only=True):
    """One input.

    Attributes:
        text: of a text model; the prompt or question of an image-to-text model.
        messages: a conversation, in place of ``text``.
        image: an encoded image (JPEG, PNG or WebP) of an image model.
        answer: the right label, or the text that should follow; ``None`` where nobody knows.
        where: it was read from, for messages.
    """

    text: str | None = None
    messages: tuple[ChatMessage, ...] = ()
    image: bytes | None = None
    answer: str | None = None
    where: str = ""


class _Line(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a line of a JSONL file may hold."""

    text: str | None = None
    prompt: str | None = None
    messages: tuple[ChatMessage, ...] = ()
    image: str | None = None
    label: str | None = None
    answer: str | None = None


def read_samples(path: Path) -> list[Sample]:
    """Read samples from a folder of images, or from a JSONL file.

    A folder: every JPEG, PNG and WebP file in it; the name of a sub-folder is the label of the images in it. A file:
    one object a line, with ``text``, ``prompt`` or ``messages``, or ``image`` (a path, relative to the file), and
    ``label`` or ``answer`` where it is known.

    Raises:
        ModelError: nothing is there, or a line is wrong; the message names the file and the line.
    """
    samples = _read_folder(path) if path.is_dir() else _read_file(path)
    if not samples:
        kind = "image (.jpg, .jpeg, .png, .webp)" if path.is_dir() else "line"
        raise ModelError(f"{path}: there is no {kind} in it. Give a folder of images or a JSONL file.")
    return samples


def sample_of(request: InferenceRequest) -> Sample:
    """The sample that a record of a Kafka topic is. Raises ModelError for an image that is kept elsewhere."""
    if isinstance(request.input, TextInput):
        return Sample(text=request.input.prompt, messages=request.input.messages)
    if not request.input.data:
        raise ModelError(f"record {request.id}: its image is kept elsewhere (dataref); samples need the image itself.")
    return Sample(image=request.input.data)


def request_of(sample: Sample, task: Task, index: int = 0) -> InferenceRequest:
    """The request that asks for ``task`` on ``sample``; the image where it has both. Raises ModelError if empty."""
    content: TextInput | ImageInput
    if sample.image is not None:
        content = ImageInput(data=sample.image, prompt=sample.text if task == "image-to-text" else None)
    elif sample.text or sample.messages:
        content = TextInput(prompt=sample.text or None, messages=() if sample.text else sample.messages)
    else:
        raise ModelError(f"sample {index}: it has neither a text nor an image.")
    source = Source(topic="samples", partition=0, offset=index)
    return InferenceRequest(id=f"samples/0/{index}", source=source, task=task, input=content)


def check_kinds(samples: Sequence[Sample], model: ServedModel) -> None:
    """Raise ModelError for an image that a model of texts is given, and for a text where images are read."""
    images = model.card.image is not None
    texts = model.card.encoder is not None or model.card.task == "text-generation"
    for number, sample in enumerate(samples, 1):
        where = sample.where or f"sample {number}"
        if sample.image is not None and not images:
            raise ModelError(f"{where}: this is an image, and {model.spec} reads texts. Give a JSONL file of prompts.")
        if sample.image is None and not texts:
            raise ModelError(
                f"{where}: this is a text, and {model.spec} reads images. Give a folder of them, or lines with `image`."
            )


def _read_folder(folder: Path) -> list[Sample]:
    files = (file for file in sorted(folder.rglob("*")) if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    return [
        Sample(
            image=_bytes(file, str(file)),
            answer=file.parent.name if file.parent != folder else None,
            where=str(file),
        )
        for file in files
    ]


def _read_file(path: Path) -> list[Sample]:
    try:
        # Not splitlines: a string in JSON may hold breaks that are Unicode's alone. Some editors put a BOM first.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: the samples cannot be read: {error}") from error
    return [_sample(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]


def _sample(text: str, path: Path, number: int) -> Sample:
    where = f"{path}, line {number}"
    line = _decoded(text, where)
    if sum(bool(part) for part in (line.text, line.prompt, line.messages)) > 1:
        raise ModelError(f"{where}: give one of text, prompt and messages.")
    words = line.text or line.prompt
    if not words and not line.messages and line.image is None:
        raise ModelError(f"{where}: it needs text, prompt, messages or image.")
    image = None if line.image is None else _bytes(path.parent / line.image, where)
    return Sample(text=words, messages=line.messages, image=image, answer=line.label or line.answer, where=where)


def _decoded(text: str, where: str) -> _Line:
    try:
        return msgspec.json.decode(text, type=_Line)
    except msgspec.DecodeError as error:
        raise ModelError(f'{where}: {error}. A line is such as {{"prompt": "...", "label": "..."}}.') from error


def _bytes(file: Path, where: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ModelError(f"{where}: the image {file} cannot be read: {error.strerror or error}") from error
