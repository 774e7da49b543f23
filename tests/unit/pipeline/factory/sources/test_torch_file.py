"""Files of PyTorch's old format, written here by its rules, and files that try to do more than hold tensors."""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.errors import ModelError
from pipeline.factory.sources.torch_file import read_state_dict


class Storage:
    def __init__(self, key: str, values: npt.NDArray[Any], kind: type) -> None:
        self.key, self.values, self.kind = key, values, kind


class Tensor:
    """Pickles as PyTorch's tensors do: a call of ``torch._utils._rebuild_tensor_v2`` on a storage."""

    def __init__(self, storage: Storage, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> None:
        self.storage = storage
        self.arguments: tuple[Any, ...] = (storage, offset, shape, strides, False, OrderedDict())

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


class Writer(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
        if isinstance(thing, Storage):
            return ("storage", thing.kind, thing.key, "cpu", len(thing.values), None)
        return None


@pytest.fixture(autouse=True)
def torch_names(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Modules with the names that PyTorch's pickles refer to, so that no PyTorch is needed to write them."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2() -> None: ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    for name in ("FloatStorage", "LongStorage", "UntypedStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


def storage(key: str, values: Any, kind: str = "FloatStorage") -> Storage:
    return Storage(key, np.asarray(values), getattr(sys.modules["torch"], kind))


def saved(thing: Any, storages: list[Storage], magic: int = 0x1950A86A20F9469CFC6C) -> bytes:
    file = io.BytesIO()
    for header in (magic, 1001, {"little_endian": True}):
        pickle.dump(header, file, protocol=2)
    Writer(file, protocol=2).dump(thing)
    pickle.dump([item.key for item in storages], file, protocol=2)
    for item in storages:
        file.write(len(item.values).to_bytes(8, "little") + item.values.tobytes())
    return file.getvalue()


def test_tensors_come_back_with_their_shapes_and_strides() -> None:
    numbers = storage("a", np.arange(12, dtype="<f4"))
    counts = storage("b", np.array([7], "<i8"), "LongStorage")
    tensors = OrderedDict(
        matrix=Tensor(numbers, (2, 3), (3, 1)),
        transposed=Tensor(numbers, (3, 2), (1, 3), offset=6),
        count=Tensor(counts, (), ()),
    )
    found = read_state_dict(saved(tensors, [numbers, counts]))
    np.testing.assert_array_equal(found["matrix"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["transposed"], [[6, 9], [7, 10], [8, 11]])
    assert found["count"] == 7
    assert found["matrix"].dtype == np.float32


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this ran",)


@pytest.mark.parametrize("evil", [Evil(), OrderedDict(weight=Evil()), {"nested": [Evil()]}])
def test_a_file_that_calls_anything_else_is_refused_before_it_runs(
    evil: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=r"holds (builtins|__builtin__)\.print, which is no tensor"):
        read_state_dict(saved(evil, []))
    assert capsys.readouterr().out == ""


def test_a_class_of_torch_that_is_no_storage_is_refused() -> None:
    values = storage("a", np.zeros(1, "<f4"), "UntypedStorage")
    with pytest.raises(ModelError, match=r"torch\.UntypedStorage, which is no tensor"):
        read_state_dict(saved({"x": Tensor(values, (1,), (1,))}, [values]))


def test_things_that_are_not_tensors_are_refused() -> None:
    with pytest.raises(ModelError, match="a dict of other things"):
        read_state_dict(saved({"epoch": 3}, []))
    with pytest.raises(ModelError, match="a list of other things"):
        read_state_dict(saved([1], []))


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((5,), (1,), 0), ((2, 2), (3, 1), 0), ((1,), (1,), 4), ((2,), (-1,), 1), ((0,), (1,), 0)],
)
def test_a_tensor_never_reaches_outside_its_storage(
    shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> None:
    values = storage("a", np.zeros(4, "<f4"))
    with pytest.raises(ModelError, match=r"outside its storage|negative size"):
        read_state_dict(saved({"x": Tensor(values, shape, strides, offset)}, [values]))


def test_every_cut_of_a_file_is_an_error_and_never_a_wrong_answer() -> None:
    values = storage("a", np.arange(4, dtype="<f4"))
    whole = saved({"x": Tensor(values, (4,), (1,))}, [values])
    for length in range(len(whole)):
        with pytest.raises(ModelError):
            read_state_dict(whole[:length])


@pytest.mark.parametrize("data", [b"", b"label,count\ncat,3\n", b"\x89PNG\r\n\x1a\n" + bytes(64), bytes(64)])
def test_what_is_no_file_of_pytorch_at_all_is_told_as_that(data: bytes) -> None:
    with pytest.raises(ModelError, match=r"^this is no PyTorch checkpoint\. .*torch\.save"):
        read_state_dict(data)


def test_an_archive_of_other_things_is_no_checkpoint() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ModelError, match="this is no PyTorch checkpoint"):
        read_state_dict(file.getvalue())


def test_a_module_that_was_saved_whole_is_told_how_to_save_its_weights() -> None:
    script = io.BytesIO(zipped({}, []))
    with zipfile.ZipFile(script, "a") as archive:
        archive.writestr("model/constants.pkl", b"")
    for file in (saved(Evil(), []), zipped(Evil(), []), script.getvalue()):
        with pytest.raises(ModelError, match=r"torch\.save\(model\.float\(\)\.state_dict\(\), FILE\)"):
            read_state_dict(file)


def test_another_magic_number_is_refused() -> None:
    with pytest.raises(ModelError, match="no PyTorch checkpoint"):
        read_state_dict(saved({}, [], magic=1))


def zipped(
    thing: Any, storages: list[Storage], compression: int = zipfile.ZIP_STORED, byteorder: str = "little"
) -> bytes:
    pickled, file = io.BytesIO(), io.BytesIO()
    ZipWriter(pickled, protocol=2).dump(thing)
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("model/data.pkl", pickled.getvalue())
        archive.writestr("model/byteorder", byteorder)
        for item in storages:
            archive.writestr(f"model/data/{item.key}", item.values.tobytes())
    return file.getvalue()


class ZipWriter(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
        return ("storage", thing.kind, thing.key, "cpu", len(thing.values)) if isinstance(thing, Storage) else None


def test_archives_of_today_are_read_too_and_whole_checkpoints_give_their_weights() -> None:
    numbers = storage("0", np.arange(6, dtype="<f4"))
    weights = {"matrix": Tensor(numbers, (2, 3), (3, 1))}
    for thing in (weights, {"epoch": 3, "state_dict": weights}, {"model": weights, "optimizer": {"lr": [0.1]}}):
        np.testing.assert_array_equal(read_state_dict(zipped(thing, [numbers]))["matrix"], [[0, 1, 2], [3, 4, 5]])


def test_an_archive_is_held_to_the_same_rules() -> None:
    numbers = storage("0", np.arange(6, dtype="<f4"))
    weights = {"matrix": Tensor(numbers, (2, 3), (3, 1))}
    with pytest.raises(ModelError, match=r"print, which is no tensor"):
        read_state_dict(zipped({"matrix": Evil()}, []))
    with pytest.raises(ModelError, match="compressed"):
        read_state_dict(zipped(weights, [numbers], zipfile.ZIP_DEFLATED))
    with pytest.raises(ModelError, match="big endian"):
        read_state_dict(zipped(weights, [numbers], byteorder="big"))
    with pytest.raises(ModelError, match="damaged"):
        read_state_dict(zipped(weights, []))
    short = storage("0", np.arange(5, dtype="<f4"))
    short_file = zipped({"matrix": Tensor(numbers, (2, 3), (3, 1))}, [short])
    with pytest.raises(ModelError, match="cut off in storage 0"):
        read_state_dict(short_file)


def test_weights_that_are_no_numbers_are_told_by_name_and_count() -> None:
    values = storage("a", np.array([1, np.nan, np.nan, np.inf], "<f4"))
    with pytest.raises(ModelError, match="x holds 2 NaN and 1 infinite numbers among its 4"):
        read_state_dict(saved({"x": Tensor(values, (4,), (1,))}, [values]))
