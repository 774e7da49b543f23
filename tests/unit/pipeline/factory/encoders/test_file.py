"""Where an encoder's weights go."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from pipeline.factory.encoders import file as encoder_file
from pipeline.factory.encoders.file import weights_file
from pipeline.factory.sources import safetensors_file
from pipeline.factory.sources.safetensors_file import read_safetensors


def test_whether_one_file_holds_the_weights_is_told_without_reading_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = json.dumps({"w": {"dtype": "F16", "shape": [10], "data_offsets": [0, 20]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(20))
    monkeypatch.setattr(safetensors_file, "_decode", lambda *_: pytest.fail("a tensor was read"))
    tensors, graph = read_safetensors(tmp_path), tmp_path / "fp32.onnx"
    monkeypatch.setattr(encoder_file, "LARGEST_FILE", 40)
    assert weights_file(tensors, graph) is None
    monkeypatch.setattr(encoder_file, "LARGEST_FILE", 39)
    assert weights_file(tensors, graph) == tmp_path / "fp32.onnx.data"
