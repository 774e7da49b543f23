"""Reads a PyTorch ``.pth`` of the format before 1.6, without PyTorch and without running what is in it.

The file is a row of pickles (magic number, protocol, system, the object, the storages' keys) and then each storage: its
count of elements as int64 and the elements, little endian. Pickles can name any function to call; this reader knows the
four that a dictionary of tensors needs and refuses every other.
Format: ``_legacy_save`` in torch/serialization.py.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from pipeline.errors import ModelError

__all__ = ["read_state_dict"]

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
STORAGES = {"FloatStorage": np.dtype("<f4"), "HalfStorage": np.dtype("<f2"), "LongStorage": np.dtype("<i8")}
Array = npt.NDArray[Any]


class _Storage(Struct, frozen=True):
    key: str
    dtype: Any
    count: int


class _Tensor(Struct, frozen=True):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(data: bytes) -> dict[str, Array]:
    """The tensors of a saved ``state_dict``, by name.

    Raises:
        ModelError: it is no such file, is cut off, or holds anything but tensors.
    """
    stream = io.BytesIO(data)
    try:
        _check_header(_load(stream), _load(stream))
        _load(stream)
        tensors = _check_tensors(_load(stream))
        storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        buffers = {key: _read_storage(stream, storages[key]) for key in _load(stream)}
        return {name: _view(tensor, buffers) for name, tensor in tensors.items()}
    except ModelError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ModelError(f"the PyTorch file is damaged: {error!r}") from error


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        return _refuse(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, count, view = pid
        if kind != "storage" or view is not None or not isinstance(dtype, np.dtype):
            _refuse(f"persistent id {pid!r}")
        return _Storage(str(key), dtype, int(count))


def _refuse(what: str) -> NoReturn:
    raise ModelError(f"the PyTorch file holds {what}, which is no tensor: it is not read.")


def _load(stream: BinaryIO) -> Any:
    return _Reader(stream, encoding="utf-8").load()


def _rebuild(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)


def _check_header(magic: Any, protocol: Any) -> None:
    if (magic, protocol) != (MAGIC, PROTOCOL):
        raise ModelError("not a PyTorch file of the format before 1.6.")


def _check_tensors(tensors: Any) -> dict[str, _Tensor]:
    if not isinstance(tensors, dict) or not all(isinstance(tensor, _Tensor) for tensor in tensors.values()):
        _refuse(f"a {type(tensors).__name__} of other things than tensors")
    return tensors


def _read_storage(stream: BinaryIO, storage: _Storage) -> Array:
    count = int.from_bytes(stream.read(8), "little")
    raw = stream.read(storage.count * storage.dtype.itemsize)
    if count != storage.count or len(raw) != count * storage.dtype.itemsize:
        raise ModelError(f"the PyTorch file is cut off in storage {storage.key}.")
    return np.frombuffer(raw, storage.dtype)


def _view(tensor: _Tensor, buffers: Mapping[str, Array]) -> Array:
    buffer = buffers[tensor.storage.key]
    if min((tensor.offset, *tensor.shape, *tensor.strides)) < 0:
        raise ModelError("the PyTorch file has a tensor of negative size.")
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if 0 in tensor.shape or last >= len(buffer):
        raise ModelError(f"the PyTorch file has a tensor that ends outside its storage {tensor.storage.key}.")
    steps = [stride * buffer.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(buffer[tensor.offset :], tensor.shape, steps).copy()
