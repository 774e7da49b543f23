"""The files that a graph keeps its weights in, found without reading the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pipeline.models.outside import places_of_weights


def graph_with_weights_in(folder: Path, *places: str) -> Path:
    tensors = [numpy_helper.from_array(np.ones(4, np.float32), f"weights {place}") for place in places]
    for tensor, place in zip(tensors, places, strict=True):
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)
        tensor.external_data.add(key="offset", value="0")
    graph = folder / "model.onnx"
    graph.write_bytes(onnx.ModelProto(graph=onnx.GraphProto(initializer=tensors)).SerializeToString())
    return graph


@pytest.mark.parametrize("length", [1, 127, 128, 255])
def test_a_file_is_found_however_long_its_name_is(tmp_path: Path, length: int) -> None:
    assert places_of_weights(graph_with_weights_in(tmp_path, "w" * length, "é.data")) == {"w" * length, "é.data"}


def test_a_graph_with_its_weights_inside_and_an_empty_file_have_none(tmp_path: Path) -> None:
    assert places_of_weights(graph_with_weights_in(tmp_path)) == set()
    (tmp_path / "empty").touch()
    assert places_of_weights(tmp_path / "empty") == set()
