"""A decoder whose weights lie beside its graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from pipeline.factory.decoders.file import write_fp32
from pipeline.factory.decoders.spec import DecoderSpec, weight_shapes
from pipeline.runtime.onnx import OnnxBackend
from pipeline.runtime.session import CacheLayout, Floats
from pipeline.settings import RuntimeSettings

SPEC = DecoderSpec(
    shape="llama", layers=2, hidden=32, heads=4, kv_heads=2, head_size=16, mlp=48, vocabulary=300, max_length=16
)


def weights() -> dict[str, Floats]:
    rng = np.random.default_rng(7)
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in weight_shapes(SPEC).items()}


def logits(path: Path) -> Floats:
    layout = CacheLayout(layers=2, slots=1, kv_heads=2, max_length=16, head_size=16, vocabulary=300)
    decoder = OnnxBackend(RuntimeSettings(provider="cpu", threads=1)).open_decoder(path, layout)
    return decoder.step(0, np.arange(7)[None], np.array([0])).copy()


def test_weights_that_one_file_cannot_hold_are_put_beside_it(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    whole = write_fp32(SPEC, weights(), one)
    parted = write_fp32(SPEC, weights(), two, largest=10_000)
    assert whole.parts == {}
    assert parted.parts["data"].file == "fp32.onnx.data"
    assert (two / "fp32.onnx").stat().st_size < 20_000 < (two / "fp32.onnx.data").stat().st_size
    np.testing.assert_array_equal(logits(one / whole.file), logits(two / parted.file))


def test_what_lies_beside_is_read_by_onnx_itself(tmp_path: Path) -> None:
    write_fp32(SPEC, weights(), tmp_path, largest=0)
    tensors = onnx.load(tmp_path / "fp32.onnx").graph.initializer
    loaded = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}
    np.testing.assert_array_equal(loaded["layers.1.qkv"], weights()["layers.1.qkv"].T)
