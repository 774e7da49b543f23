"""What `millrace send` reads: prompts out of text and JSON files, images out of files and folders."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from msgspec import Struct

from pipeline.errors import MillraceError
from schemas.images import sniff_image

__all__ = ["IMAGE_SUFFIXES", "Payload", "PayloadError", "ask_about", "read_images", "read_prompts"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
PROMPT_SUFFIXES = (".txt", ".jsonl", ".ndjson", ".json")
STDIN = Path("-")


class PayloadError(MillraceError):
    """A file to send cannot be read, or there is nothing in it."""


class Payload(Struct, frozen=True, kw_only=True):
    """The value of a record to be; ``name`` is its file and, for prompts, its line."""

    name: str
    value: bytes


def read_prompts(paths: tuple[Path, ...]) -> Iterator[Payload]:
    """Each prompt: a line of text, a line of JSONL, or an object (or list of objects) of a ``.json`` file.

    ``-`` is standard input; a folder is searched for text and JSON files. Raises PayloadError.
    """
    for path in paths:
        for file in _files(path, PROMPT_SUFFIXES):
            yield from _json_prompts(file) if file.suffix.lower() == ".json" else _line_prompts(file)


def read_images(paths: tuple[Path, ...]) -> Iterator[Payload]:
    """Each image's own bytes. ``-`` is one image on standard input; a folder is searched recursively.

    A file that is named is sent whatever its suffix: the worker looks at the bytes. Raises PayloadError.
    """
    for path in paths:
        for file in _files(path, IMAGE_SUFFIXES):
            yield Payload(name=_name(file), value=_read(file))


def ask_about(image: Payload, fields: Mapping[str, Any]) -> Payload:
    """The request in JSON that sends ``image`` and asks more about it."""
    request = {"image": base64.b64encode(image.value).decode(), **fields}
    return Payload(name=image.name, value=json.dumps(request, ensure_ascii=False).encode())


def _files(path: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    if path == STDIN or not path.is_dir():
        yield path
        return
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
    if not found:
        raise PayloadError(f"{path}: no file in this folder ends with {', '.join(suffixes)}. Name the files to send.")
    yield from found


def _name(file: Path) -> str:
    return "standard input" if file == STDIN else str(file)


def _read(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == STDIN else file.read_bytes()
    except OSError as error:
        raise PayloadError(f"{file}: cannot be read: {error.strerror}") from error


def _line_prompts(file: Path) -> Iterator[Payload]:
    """Lines as they come, so that standard input may be a pipe that never ends."""
    try:
        with nullcontext(sys.stdin.buffer) if file == STDIN else file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                text = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
                if sniff_image(line) or b"\0" in line:
                    raise PayloadError(f"{_name(file)}: not text. Images go with `send images`.")
                if text:
                    yield Payload(name=f"{_name(file)}:{number}", value=text)
    except OSError as error:
        raise PayloadError(f"{file}: cannot be read: {error.strerror}") from error


def _json_prompts(file: Path) -> Iterator[Payload]:
    try:
        document = json.loads(_read(file))
    except ValueError as error:
        raise PayloadError(f"{file}: not JSON: {error}. A file of JSON lines should end with .jsonl.") from error
    items = document if isinstance(document, list) else [document]
    for number, item in enumerate(items):
        value = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
        yield Payload(name=f"{file}[{number}]" if isinstance(document, list) else str(file), value=value.encode())
