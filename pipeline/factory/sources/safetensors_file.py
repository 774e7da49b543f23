"""Reads the weights of a Hugging Face folder from safetensors files, without PyTorch and without reading all of them.

A file is the length of its header (8 bytes, little endian), the header (JSON: ``dtype``, ``shape`` and ``data_offsets``
of each tensor) and the tensors (the safetensors format, as its README describes it). The format's own library reads no
BF16 into numpy, which is what most decoders are in.
"""

from __future__ import annotations

import math
import mmap
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.factory.sources.finite import check_finite

__all__ = ["Tensors", "read_safetensors"]

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
LONGEST_HEADER = 100_000_000  # the format's own bound
DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
BROKEN = "it is cut off or not a safetensors file. Fetch it again."
Count = Annotated[int, msgspec.Meta(ge=0)]


class Tensors(Mapping[str, npt.NDArray[Any]]):
    """Tensors by name; each is read when it is asked for."""

    @abstractmethod
    def nbytes(self) -> int:
        """How large all of them are as they come out. None is read for it."""


class _Entry(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[Count, ...]
    data_offsets: tuple[Count, Count]

    @property
    def nbytes(self) -> int:
        """As it comes out: floats as float32, others as they are stored."""
        begin, end = self.data_offsets
        return 4 * math.prod(self.shape) if "F" in self.dtype else end - begin


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


def read_safetensors(source: Path) -> Tensors:
    """The tensors of ``source`` by name: a ``.safetensors`` file, or a folder with one or with an index of several.

    Nothing but headers is read before a tensor is asked for. Floats come out as float32 (a tensor stored so is a
    read-only view of the file), integers and booleans as they are.

    Raises:
        ModelError: there is no such file, or it is damaged; or only pickles are there, which are not read. Asking for
            a tensor raises it for a dtype that numpy cannot hold, such as FP8, and for NaN and infinities.
    """
    if not source.is_dir():
        return _open(source)
    if (source / INDEX).is_file():
        return _shards(source)
    return _open(_only_file(source))


def _only_file(folder: Path) -> Path:
    if (folder / WHOLE).is_file():
        return folder / WHOLE
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found[:4])
        raise ModelError(f"{folder}: {len(found)} safetensors files ({names}) and no {INDEX} that says what is where.")
    if pickles := sorted(path.name for pattern in PICKLES for path in folder.glob(pattern)):
        raise ModelError(
            f"{folder}: the weights are in {pickles[0]}, a pickle, and loading a pickle can run code that is in it, so "
            "it is not read. Where you trust it, load it with transformers and write it again with "
            "model.save_pretrained(folder, safe_serialization=True)."
        )
    raise ModelError(f"{folder}: no {WHOLE} and no {INDEX}: there are no weights to read.")


def _shards(folder: Path) -> Tensors:
    path = folder / INDEX
    try:
        where = msgspec.json.decode(path.read_bytes(), type=_Index).weight_map
    except (OSError, msgspec.DecodeError) as error:
        raise ModelError(f"{path}: cannot be read as an index: {error}.") from error
    for name in sorted(set(where.values())):
        # What a link in the folder leads to is the owner's business: Hugging Face's cache is made of links.
        if Path(name).name != name or name in {"", ".", ".."}:
            raise ModelError(f"{path}: it names the file {name!r}, which is not beside it.")
    files = {name: _open(folder / name) for name in sorted(set(where.values()))}
    for tensor, name in where.items():
        if tensor not in files[name]:
            raise ModelError(f"{path}: it says that {tensor} is in {name}, which does not hold it.")
    return _Sharded(where, files)


class _Sharded(Tensors):
    def __init__(self, where: Mapping[str, str], files: Mapping[str, Tensors]) -> None:
        self._where, self._files = where, files

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._files[self._where[name]][name]

    def nbytes(self) -> int:
        return sum(file.nbytes() for file in self._files.values())

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


class _File(Tensors):
    """``start`` is where the tensors begin."""

    def __init__(self, path: Path, memory: memoryview, entries: Mapping[str, _Entry], start: int) -> None:
        self._path, self._memory, self._entries, self._start = path, memory, entries, start

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        entry = self._entries[name]
        if entry.dtype not in DTYPES:
            raise ModelError(f"{self._path}: {name} is {entry.dtype}; readable are {', '.join(DTYPES)}.")
        begin, end = (self._start + offset for offset in entry.data_offsets)
        tensor = _decode(np.frombuffer(self._memory[begin:end], DTYPES[entry.dtype]), entry.dtype)
        check_finite(tensor, name, f"{self._path}: ")
        return tensor.reshape(entry.shape)

    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self._entries.values())

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _decode(stored: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    if dtype == "BF16":  # the upper half of a float32
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which is told
        return stored.astype(np.float32, copy=False) if dtype.startswith("F") else stored


def _open(path: Path) -> Tensors:
    try:
        with path.open("rb") as file:
            memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # a file of no bytes is a ValueError
        raise ModelError(f"{path}: cannot be read: {error}.") from error
    start = 8 + int.from_bytes(memory[:8], "little")
    if start > min(len(memory), LONGEST_HEADER):
        raise ModelError(f"{path}: its header should end at byte {start:,} and the file has {len(memory):,}: {BROKEN}")
    try:
        header = msgspec.json.decode(memory[8:start], type=dict[str, Any])
        header.pop("__metadata__", None)
        entries = msgspec.convert(header, dict[str, _Entry])
    except msgspec.DecodeError as error:
        raise ModelError(f"{path}: its header is not one of safetensors: {error}. {BROKEN}") from error
    for name, entry in entries.items():
        _check(path, name, entry, len(memory) - start)
    return _File(path, memory, entries, start)


def _check(path: Path, name: str, entry: _Entry, available: int) -> None:
    begin, end = entry.data_offsets
    if not begin <= end <= available:
        raise ModelError(f"{path}: {name} should be at bytes {begin:,} to {end:,} of {available:,}: {BROKEN}")
    if entry.dtype in DTYPES and end - begin != math.prod(entry.shape) * np.dtype(DTYPES[entry.dtype]).itemsize:
        shape = f"{entry.dtype} {list(entry.shape)}"
        raise ModelError(f"{path}: {name} has {end - begin:,} bytes, which is not {shape}: {BROKEN}")
