"""The export of a small module that has every trap in it, and modules that do not come out as they are."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from pipeline.errors import ModelError
from pipeline.factory.exports import export
from pipeline.factory.exports.export import export_graph
from pipeline.factory.images.spec import PixelInput
from pipeline.models.card import ImageSpec

torch.set_num_threads(1)

PIXELS = PixelInput(
    image=ImageSpec(height=12, width=12, channels=3, resize=12), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)
)


class FrozenBatchNorm2d(torch.nn.Module):  # type: ignore[misc]
    """As DETR has it: statistics in buffers, and Mul and Add in the graph."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 0.5), ("bias", 0.1), ("running_mean", 0.2), ("running_var", 2.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Any) -> Any:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


class Traps(torch.nn.Module):  # type: ignore[misc]
    """Pools by equal windows, by unequal ones and to a point, with a mean and as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.frozen = FrozenBatchNorm2d(4)
        self.again = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)
        self.point = torch.nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Any) -> Any:
        pool = torch.nn.functional.adaptive_avg_pool2d
        x = self.norm(self.again(torch.relu(self.frozen(self.conv(x)))))
        parts = [pool(x, (6, 4)), pool(x, 12)[..., :2], pool(x, (5, 7)), self.point(x)]
        return torch.cat([part.flatten(1) for part in parts], 1), x.mean((2, 3)), x.flatten(2).mean((-2, -1))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("export") / "traps.onnx"
    export_graph(Traps(), path, pixels=PIXELS, outputs=["parts", "averages", "one"])
    return onnx.load(path)


def test_norms_are_folded_and_pooling_has_its_own_operators(exported: Any) -> None:
    found = Counter(node.op_type for node in exported.graph.node)
    assert found["Conv"] == 2
    assert (found["AveragePool"], found["GlobalAveragePool"], found["MatMul"]) == (1, 2, 2)
    assert found["ReduceMean"] == 1  # the one that is not over height and width
    assert {"BatchNormalization", "Gather", "Range", "Shape"}.isdisjoint(found)
    assert (found["Sub"], found["Mul"], found["Add"]) == (1, 0, 0)  # the pixels' factors are in the first weights


def test_the_batch_is_free_and_the_size_is_not(exported: Any) -> None:
    (given,) = exported.graph.input
    dimensions = [item.dim_param or item.dim_value for item in given.type.tensor_type.shape.dim]
    assert (given.name, dimensions) == ("pixels", ["N", 12, 12, 3])
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [item.version for item in exported.opset_import] == [20]


def test_nothing_of_this_machine_is_left_in_the_file(exported: Any) -> None:
    assert str(Path(torch.__file__).parent).encode() not in exported.SerializeToString()
    assert not any(node.metadata_props for node in exported.graph.node)


class Shifting(torch.nn.Module):  # type: ignore[misc]
    """Answers differently from call to call."""

    def forward(self, x: Any) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        return x.mean((2, 3)) + self.calls


def test_a_graph_that_differs_from_its_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"x\.onnx, batch 1: logits differs by .* from torch"):
        export_graph(Shifting(), tmp_path / "x.onnx", pixels=PIXELS, outputs=["logits"])


class Branching(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: Any) -> Any:
        return x if x.sum() > 0 else -x


def test_a_module_that_decides_by_values_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"x\.onnx: torch cannot export this model to ONNX"):
        export_graph(Branching(), tmp_path / "x.onnx", pixels=PIXELS, outputs=["logits"])


def test_without_torch_the_user_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match=r"needs torch .*pip install '\.\[models\]' in its folder"):
        export.import_framework("torch")


@pytest.mark.parametrize(("size", "wanted"), [(12, 5), (5, 12), (7, 7)])
def test_windows_of_adaptive_pooling_are_torchs(size: int, wanted: int) -> None:
    values = torch.randn(1, 1, size)
    found = values @ torch.tensor(export._windows(size, wanted)).T
    np.testing.assert_allclose(found, torch.nn.functional.adaptive_avg_pool1d(values, wanted), atol=1e-6)
