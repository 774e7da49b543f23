"""What a decoder's graph caches keys and values in, found by walking its bytes: to parse it takes memory and time.

The fields of ``ModelProto.graph``, ``GraphProto.input``, ``ValueInfoProto`` and ``TypeProto.Tensor`` have the numbers
that onnx.proto gives them; every other field is skipped by its length.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from pipeline.models.card import CacheType

__all__ = ["types_of_pasts"]

GRAPH, INPUT, NAME, TYPE, TENSOR, ELEMENT = 7, 11, 1, 2, 1, 1
TYPES: dict[int, CacheType] = {1: "float32", 10: "float16", 3: "int8"}
VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5
SIZES = {EIGHT_BYTES: 8, FOUR_BYTES: 4}
LONGEST = 10
"""Bytes of a number of 64 bits."""

Span = tuple[int, int]


def types_of_pasts(graph: Path) -> dict[str, CacheType | None]:
    """The type of each input whose name begins with ``past_``; ``None`` for one that no cache may have.

    Of a file that is no graph there are none: it cannot be loaded either.

    Raises:
        OSError: the file cannot be read.
    """
    if graph.stat().st_size == 0:
        return {}
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            found = dict(_inputs(content))
        except (ValueError, IndexError, UnicodeDecodeError):
            return {}
    return {name: TYPES.get(kind) for name, kind in found.items() if name.startswith("past_")}


def _inputs(content: mmap.mmap) -> Iterator[tuple[str, int]]:
    """Name and element type of every input that is a tensor."""
    for graph in _inside(content, (0, len(content)), GRAPH):
        for value in _inside(content, graph, INPUT):
            names = [content[slice(*span)].decode() for span in _inside(content, value, NAME)]
            types = [
                _number(content, at)[0]
                for kind in _inside(content, value, TYPE)
                for tensor in _inside(content, kind, TENSOR)
                for at, _ in _inside(content, tensor, ELEMENT)
            ]
            yield from zip(names, types, strict=False)


def _inside(content: mmap.mmap, message: Span, wanted: int) -> Iterator[Span]:
    """Where the fields of number ``wanted`` stand in a message. Raises ValueError, IndexError for what is none."""
    at, end = message
    while at < end:
        key, at = _number(content, at)
        kind = key & 7
        if kind == VARINT:
            size = _number(content, at)[1] - at
        elif kind == BYTES:
            size, at = _number(content, at)
        else:
            size = SIZES.get(kind, end)
        if at + size > end:
            raise ValueError("a field ends behind its message")
        if key >> 3 == wanted:
            yield at, at + size
        at += size


def _number(content: mmap.mmap, at: int) -> tuple[int, int]:
    """A number of protobuf, seven bits a byte, the lowest first, more after each over 127; and where it ends."""
    number = 0
    for place in range(LONGEST):
        byte = content[at + place]
        number |= (byte & 127) << 7 * place
        if byte <= 127:
            return number, at + place + 1
    raise ValueError("a number has more than 64 bits")
