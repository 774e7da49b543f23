"""Which files an ONNX graph keeps its weights in, found in its bytes: to parse it takes memory and time."""

from __future__ import annotations

import mmap
from pathlib import Path

__all__ = ["places_of_weights"]

# How `external_data` begins in the bytes of a TensorProto (onnx.proto): an entry whose key is "location". The length of
# its value follows, one byte for names of up to 127.
LOCATION = b"\n\x08location\x12"


def places_of_weights(graph: Path) -> set[str]:
    """The names of the files, relative to the graph's folder. Raises OSError."""
    if graph.stat().st_size == 0:
        return set()
    places = set()
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(LOCATION)
        while at >= 0:
            begin = at + len(LOCATION) + 1
            places.add(content[begin : begin + content[begin - 1]].decode(errors="replace"))
            at = content.find(LOCATION, begin)
    return places
