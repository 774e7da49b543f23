"""Which files an ONNX graph keeps its weights in, found in its bytes: to parse it takes memory and time."""

from __future__ import annotations

import mmap
from pathlib import Path

__all__ = ["places_of_weights"]

# How `external_data` begins in the bytes of a TensorProto (onnx.proto): an entry whose key is "location". Then comes
# its value.
LOCATION = b"\n\x08location\x12"


def places_of_weights(graph: Path) -> set[str]:
    """The names of the files, relative to the graph's folder. Raises OSError."""
    if graph.stat().st_size == 0:
        return set()
    places = set()
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(LOCATION)
        while at >= 0:
            at += len(LOCATION)
            places.add(_text_at(content, at))
            at = content.find(LOCATION, at)
    return places


def _text_at(content: mmap.mmap, at: int) -> str:
    """A text of protobuf: its length, seven bits a byte, the lowest first, more after each over 127; then its bytes."""
    length, shift, more = 0, 0, True
    while more:
        length |= (content[at] & 127) << shift
        at, shift, more = at + 1, shift + 7, content[at] > 127
    return content[at : at + length].decode(errors="replace")
