"""Reads a PyTorch ``.pth``, without PyTorch and without running what is in it.

Since PyTorch 1.6 the file is a zip archive without compression: ``<root>/data.pkl`` is the object,
``<root>/data/<key>`` each storage, and ``<root>/byteorder`` says ``little``. Before, it was a row of pickles (magic
number, protocol, system, the object, the storages' keys) and then each storage: its count of elements as int64 and the
elements, little endian. Pickles can name any function to call; this reader knows the few that a dictionary of tensors
needs and refuses every other. Formats: ``_save`` and ``_legacy_save`` in torch/serialization.py.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.factory.sources.finite import check_finite

__all__ = ["read_state_dict"]

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "BoolStorage": np.dtype("?"),
}
# What training scripts keep the weights under, beside the optimizer's state.
NESTED = ("state_dict", "model")
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
    """The tensors of a saved ``state_dict``, by name; also of one that is kept in a checkpoint beside other things.

    Raises:
        ModelError: it is no such file, is cut off, or holds objects of other classes than tensors, NaN or infinities.
    """
    try:
        tensors = _read_zip(data) if data.startswith(b"PK") else _read_legacy(data)
    except ModelError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ModelError(f"the PyTorch file is damaged: {error!r}") from error
    for name, tensor in tensors.items():
        check_finite(tensor, name)
    return tensors


def _read_zip(data: bytes) -> dict[str, Array]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [item.filename for item in archive.infolist()]
        root = next((name for name in names if name.endswith("/data.pkl")), "").removesuffix("data.pkl")
        if not root:
            _refuse_file()
        if f"{root}constants.pkl" in names:  # code and all
            _refuse("a module of TorchScript")
        if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
            raise ModelError("the PyTorch file is a compressed archive, which PyTorch does not write.")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise ModelError("the PyTorch file is big endian. Save it again on another machine.")
        tensors = _check_tensors(_load(io.BytesIO(archive.read(f"{root}data.pkl"))))
        storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        buffers = {key: _whole(archive.read(f"{root}data/{key}"), storage) for key, storage in storages.items()}
    return {name: _view(tensor, buffers) for name, tensor in tensors.items()}


def _read_legacy(data: bytes) -> dict[str, Array]:
    stream = io.BytesIO(data)
    _check_header(stream)
    _load(stream)
    tensors = _check_tensors(_load(stream))
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    buffers = {key: _read_storage(stream, storages[key]) for key in _load(stream)}
    return {name: _view(tensor, buffers) for name, tensor in tensors.items()}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        return _refuse(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, count, *views = pid
        if kind != "storage" or any(views) or not isinstance(dtype, np.dtype):
            _refuse(f"persistent id {pid!r}")
        return _Storage(str(key), dtype, int(count))


def _refuse(what: str) -> NoReturn:
    raise ModelError(
        f"the PyTorch file holds {what}, which is no tensor: it is not read. Save the weights alone, as float32: "
        "torch.save(model.float().state_dict(), FILE)."
    )


def _refuse_file() -> NoReturn:
    raise ModelError(
        "this is no PyTorch checkpoint. Give a .safetensors file, or what torch.save(model.state_dict(), FILE) writes."
    )


def _load(stream: BinaryIO) -> Any:
    return _Reader(stream, encoding="utf-8").load()


def _rebuild(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor


def _check_header(stream: BinaryIO) -> None:
    """Read past the magic number and the protocol. Raises ModelError for a file that begins otherwise."""
    try:
        header = _load(stream), _load(stream)
    except Exception:  # what is no pickle raises nearly anything
        _refuse_file()
    if header != (MAGIC, PROTOCOL):
        _refuse_file()


def _check_tensors(loaded: Any) -> dict[str, _Tensor]:
    kept = [loaded[name] for name in NESTED if name in loaded] if isinstance(loaded, dict) else []
    tensors = next((item for item in kept if isinstance(item, dict)), loaded)
    if not isinstance(tensors, dict) or not all(isinstance(tensor, _Tensor) for tensor in tensors.values()):
        _refuse(f"a {type(tensors).__name__} of other things than tensors")
    return tensors


def _read_storage(stream: BinaryIO, storage: _Storage) -> Array:
    count = int.from_bytes(stream.read(8), "little")
    if count != storage.count:
        raise ModelError(f"the PyTorch file is cut off in storage {storage.key}.")
    return _whole(stream.read(count * storage.dtype.itemsize), storage)


def _whole(raw: bytes, storage: _Storage) -> Array:
    if len(raw) != storage.count * storage.dtype.itemsize:
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
