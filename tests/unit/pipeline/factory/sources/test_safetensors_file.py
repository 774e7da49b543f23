from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ModelError
from pipeline.factory.sources.safetensors_file import read_safetensors


def write(path: Path, header: Any, data: bytes) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def one(dtype: str, shape: list[int], end: int, begin: int = 0) -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


VALUES = np.array([[1.5, -2.0, 0.25], [3.0, -0.5, 1024.0]], np.float32)


@pytest.mark.parametrize(
    ("dtype", "data"),
    [
        ("F32", VALUES.tobytes()),
        ("F16", VALUES.astype(np.float16).tobytes()),
        ("F64", VALUES.astype(np.float64).tobytes()),
        ("BF16", (VALUES.view(np.uint32) >> 16).astype(np.uint16).tobytes()),
    ],
)
def test_floats_of_every_width_come_out_as_float32(tmp_path: Path, dtype: str, data: bytes) -> None:
    tensors = read_safetensors(write(tmp_path / "model.safetensors", one(dtype, [2, 3], len(data)), data))
    assert tensors["w"].dtype == np.float32
    np.testing.assert_array_equal(tensors["w"], VALUES)


def test_integers_and_booleans_come_out_as_they_are(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "ids": {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]},
        "mask": {"dtype": "BOOL", "shape": [3], "data_offsets": [16, 19]},
        "scalar": {"dtype": "U8", "shape": [], "data_offsets": [19, 20]},
    }
    data = np.array([-1, 7], np.int64).tobytes() + bytes([1, 0, 1]) + bytes([9])
    tensors = read_safetensors(write(tmp_path / "any.safetensors", header, data).parent)
    assert sorted(tensors) == ["ids", "mask", "scalar"]
    assert tensors["ids"].tolist() == [-1, 7]
    assert tensors["mask"].tolist() == [True, False, True]
    assert tensors["scalar"].item() == 9


def test_their_size_is_that_of_what_comes_out_and_nothing_is_read_for_it(tmp_path: Path) -> None:
    header = {
        "half": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
        "ids": {"dtype": "I64", "shape": [2], "data_offsets": [12, 28]},
        "single": {"dtype": "F32", "shape": [1], "data_offsets": [28, 32]},
    }
    tensors = read_safetensors(write(tmp_path / "model.safetensors", header, bytes(32)))
    assert tensors.nbytes() == sum(tensors[name].nbytes for name in tensors) == 24 + 16 + 4
    header["unreadable"] = {"dtype": "F8_E4M3", "shape": [5], "data_offsets": [0, 5]}
    assert read_safetensors(write(tmp_path / "model.safetensors", header, bytes(32))).nbytes() == 24 + 16 + 4 + 20


def test_it_reads_what_the_formats_own_library_writes(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": VALUES, "b": np.arange(4)}, tmp_path / "model.safetensors")
    tensors = read_safetensors(tmp_path)
    np.testing.assert_array_equal(tensors["a"], VALUES)
    np.testing.assert_array_equal(tensors["b"], np.arange(4))


def shards(folder: Path, weight_map: dict[str, str]) -> Path:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for index, name in enumerate(("a", "b")):
        header = {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
        write(folder / f"part-{name}.safetensors", header, np.float32(index).tobytes())
    return folder


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    tensors = read_safetensors(shards(tmp_path, {"a": "part-a.safetensors", "b": "part-b.safetensors"}))
    assert len(tensors) == 2
    assert {name: tensors[name].item() for name in tensors} == {"a": 0.0, "b": 1.0}


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({"a": "part-a.safetensors", "c": "part-c.safetensors"}, "part-c.safetensors: cannot be read"),
        ({"b": "part-a.safetensors"}, "says that b is in part-a.safetensors, which does not hold it"),
        ({"a": "../part-a.safetensors"}, "'../part-a.safetensors', which is not beside it"),
        ({"a": 1}, "cannot be read as an index"),
    ],
)
def test_an_index_that_leads_nowhere_is_refused(tmp_path: Path, weight_map: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        read_safetensors(shards(tmp_path, weight_map))


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        (one("F32", [2], 8), b"1234", "w should be at bytes 0 to 8 of 4: it is cut off"),
        (one("F32", [2], 4), b"1234", "w has 4 bytes, which is not F32"),
        (one("F32", [1], 0, begin=4), b"1234", "w should be at bytes 4 to 0"),
        (one("F32", [-1], 4), b"1234", "not one of safetensors"),
        ([1, 2], b"", "not one of safetensors"),
    ],
)
def test_a_file_whose_header_lies_is_refused(tmp_path: Path, header: Any, data: bytes, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        read_safetensors(write(tmp_path / "model.safetensors", header, data))


@pytest.mark.parametrize("content", [b"", b"123", struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 2) + b"{"])
def test_a_truncated_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors: "):
        read_safetensors(tmp_path)


def test_a_dtype_that_numpy_lacks_is_named_when_it_is_asked_for(tmp_path: Path) -> None:
    tensors = read_safetensors(write(tmp_path / "model.safetensors", one("F8_E4M3", [2], 2), b"12"))
    with pytest.raises(ModelError, match="w is F8_E4M3"):
        tensors["w"]


def test_pickles_are_not_read_and_the_message_says_how_to_convert_them(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(ModelError, match=r"pytorch_model.bin, a pickle, .*can run code.*safe_serialization=True"):
        read_safetensors(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there are no weights"):
        read_safetensors(tmp_path)


def test_several_files_without_an_index_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.safetensors", {}, b"")
    with pytest.raises(ModelError, match=r"2 safetensors files \(a.safetensors, b.safetensors\)"):
        read_safetensors(tmp_path)


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<f8"])
def test_weights_that_are_no_numbers_are_told_by_name_and_count_when_they_are_asked_for(
    tmp_path: Path, dtype: str
) -> None:
    data = np.array([1, np.nan, np.inf, -np.inf], dtype).tobytes()
    name = {"<f4": "F32", "<f2": "F16", "<f8": "F64"}[dtype]
    tensors = read_safetensors(write(tmp_path / "model.safetensors", one(name, [2, 2], len(data)), data))
    with pytest.raises(ModelError, match=r"model\.safetensors: w holds 1 NaN and 2 infinite numbers among its 4"):
        _ = tensors["w"]


def test_a_number_too_large_for_float32_is_infinite(tmp_path: Path) -> None:
    data = np.array([1e300, 1.0]).tobytes()
    tensors = read_safetensors(write(tmp_path / "model.safetensors", one("F64", [2], 16), data))
    with pytest.raises(ModelError, match="w holds 0 NaN and 1 infinite"):
        _ = tensors["w"]
