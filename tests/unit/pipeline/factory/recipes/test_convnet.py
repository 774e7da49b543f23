"""The convolutional graph against plain numpy, and what static INT8 makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from pipeline.errors import ModelError
from pipeline.factory.gates.classifiers import compare_classifiers
from pipeline.factory.quantize.bias_correction import correct_biases
from pipeline.factory.quantize.static import input_means, quantize_static_int8
from pipeline.factory.recipes.convnet import Stage, build_efficientnet_lite
from pipeline.runtime.onnx import OnnxSession, open_session
from pipeline.settings import RuntimeSettings

Floats = npt.NDArray[np.float32]
SIZE, CLASSES = 16, 10
STAGES = (Stage(1, 3, 1, 1), Stage(2, 5, 2, 2))
WIDTHS = (("_blocks.0", 8, 8, 8, 3), ("_blocks.1", 8, 16, 12, 5), ("_blocks.2", 12, 24, 12, 5))


def random_weights() -> dict[str, Floats]:
    rng = np.random.default_rng(11)
    weights: dict[str, Floats] = {}

    def conv(name: str, shape: tuple[int, ...], norm: str) -> None:
        fan_in = int(np.prod(shape[1:]))
        weights[f"{name}.weight"] = rng.normal(0, fan_in**-0.5, shape).astype(np.float32)
        for key, low, high in (("weight", 0.5, 2), ("bias", -0.5, 1), ("running_mean", -1, 1), ("running_var", 0.5, 2)):
            weights[f"{norm}.{key}"] = rng.uniform(low, high, shape[0]).astype(np.float32)

    conv("_conv_stem", (8, 3, 3, 3), "_bn0")
    for block, before, wide, after, kernel in WIDTHS:
        if wide != before:
            conv(f"{block}._expand_conv", (wide, before, 1, 1), f"{block}._bn0")
        conv(f"{block}._depthwise_conv", (wide, 1, kernel, kernel), f"{block}._bn1")
        conv(f"{block}._project_conv", (after, wide, 1, 1), f"{block}._bn2")
    conv("_conv_head", (32, 12, 1, 1), "_bn1")
    weights["_fc.weight"] = rng.normal(0, 0.5, (CLASSES, 32)).astype(np.float32)
    weights["_fc.bias"] = rng.normal(0, 0.5, CLASSES).astype(np.float32)
    return weights


def numpy_conv(x: Any, w: dict[str, Floats], name: str, norm: str, stride: int = 1, *, clipped: bool = True) -> Any:
    """TensorFlow's "same" convolution, batch norm, ReLU6 of x [N, C, H, W]."""
    kernel = w[f"{name}.weight"]
    out, size = -(-x.shape[2] // stride), kernel.shape[-1]
    total = max((out - 1) * stride + size - x.shape[2], 0)
    before, after = total // 2, total - total // 2
    padded = np.pad(x, ((0, 0), (0, 0), (before, after), (before, after)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]
    depthwise = kernel.shape[1] == 1
    y = np.einsum(
        "nchwij,cij->nchw" if depthwise else "nchwij,ocij->nohw", windows, kernel[:, 0] if depthwise else kernel
    )
    part = {key: w[f"{norm}.{key}"][:, None, None] for key in ("weight", "bias", "running_mean", "running_var")}
    y = (y - part["running_mean"]) / np.sqrt(part["running_var"] + 1e-3) * part["weight"] + part["bias"]
    return np.clip(y, 0, 6) if clipped else y


def reference(pixels: npt.NDArray[np.uint8]) -> Any:
    w = random_weights()
    x = numpy_conv((pixels.astype(np.float32) / 127.5 - 1).transpose(0, 3, 1, 2), w, "_conv_stem", "_bn0", 2)
    for (block, before, wide, _, _), stride in zip(WIDTHS, (1, 2, 1), strict=True):
        y = x if wide == before else numpy_conv(x, w, f"{block}._expand_conv", f"{block}._bn0")
        y = numpy_conv(y, w, f"{block}._depthwise_conv", f"{block}._bn1", stride)
        y = numpy_conv(y, w, f"{block}._project_conv", f"{block}._bn2", clipped=False)
        x = y + x if block == "_blocks.2" else y
    x = numpy_conv(x, w, "_conv_head", "_bn1").mean((2, 3))
    return x @ w["_fc.weight"].T + w["_fc.bias"]


def some_pixels(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Smooth random pictures: noise alone would average out in the pool."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, 4, 4, 3))
    return small.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)


def open_cpu(path: Path) -> OnnxSession:
    return open_session(path, RuntimeSettings(provider="cpu", threads=1))


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("convnet")
    onnx.save(build_efficientnet_lite(random_weights(), STAGES, SIZE), folder / "fp32.onnx")
    batches = [{"pixels": some_pixels(16, seed)} for seed in range(4)]
    quantize_static_int8(folder / "fp32.onnx", folder / "int8.onnx", batches)
    return folder


def test_the_fp32_graph_computes_what_the_formulas_say(graphs: Path) -> None:
    pixels = some_pixels(3, seed=9)
    got = open_cpu(graphs / "fp32.onnx").run({"pixels": pixels})["logits"]
    np.testing.assert_allclose(got, reference(pixels), atol=1e-3, rtol=1e-3)


def test_int8_agrees_with_fp32_on_pictures_it_was_not_calibrated_on(graphs: Path) -> None:
    full, ours = open_cpu(graphs / "fp32.onnx"), open_cpu(graphs / "int8.onnx")
    measured = compare_classifiers(full, ours, [{"pixels": some_pixels(32, seed)} for seed in (20, 21)])
    assert measured["images"] == 64
    assert measured["top1_agreement"] >= 0.9
    assert 0 < measured["mean_kl"] < 0.02


def test_pairs_of_int8_weights_fit_into_16_bit_sums_and_each_channel_has_a_scale(graphs: Path) -> None:
    tensors = {
        item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(graphs / "int8.onnx").graph.initializer
    }
    int8 = {name: values for name, values in tensors.items() if values.dtype == np.int8 and values.ndim > 1}
    assert len(int8) == 11
    for name, values in int8.items():
        assert tensors[name.replace("_quantized", "_scale")].size in values.shape, name
        if values.ndim == 4 and values.shape[1] == 1:  # depthwise: summed in 32 bits
            continue
        rows = (np.moveaxis(values, 1, -1) if values.ndim == 4 else values.T).reshape(-1, 2).astype(int)
        assert np.maximum(rows, 0).sum(axis=1).max() <= 128, name
        assert np.minimum(rows, 0).sum(axis=1).min() >= -128, name


def test_an_int8_picture_is_bit_equal_alone_and_in_company(graphs: Path) -> None:
    session = open_cpu(graphs / "int8.onnx")
    pixels = some_pixels(9, seed=5)
    pixels[4] = 255  # an outlier
    together = session.run({"pixels": pixels})["logits"]
    for row in range(len(pixels)):
        np.testing.assert_array_equal(session.run({"pixels": pixels[row : row + 1]})["logits"][0], together[row])


def test_bias_correction_takes_out_the_shift_of_rounded_weights(graphs: Path, tmp_path: Path) -> None:
    """Undone by a second correction with the means negated, the mean logits stray further from FP32."""
    full, quantized = onnx.load(graphs / "fp32.onnx"), onnx.load(graphs / "int8.onnx")
    calibration = [{"pixels": some_pixels(16, seed)} for seed in range(4)]
    correct_biases(full, quantized, {name: -mean for name, mean in input_means(full, calibration).items()})
    onnx.save(quantized, tmp_path / "uncorrected.onnx")
    pixels = {"pixels": np.concatenate([some_pixels(64, seed) for seed in (30, 31, 32, 33)])}
    mean = open_cpu(graphs / "fp32.onnx").run(pixels)["logits"].mean(axis=0)
    corrected = np.abs(open_cpu(graphs / "int8.onnx").run(pixels)["logits"].mean(axis=0) - mean).mean()
    uncorrected = np.abs(open_cpu(tmp_path / "uncorrected.onnx").run(pixels)["logits"].mean(axis=0) - mean).mean()
    assert corrected < uncorrected


def test_a_missing_weight_and_a_wrong_kernel_are_named() -> None:
    weights = random_weights()
    with pytest.raises(ModelError, match=r"_blocks\.1\._depthwise_conv has a kernel of 5, it should be 3"):
        build_efficientnet_lite(weights, (Stage(1, 3, 1, 1), Stage(2, 3, 2, 2)), SIZE)
    del weights["_fc.bias"]
    with pytest.raises(ModelError, match=r"'_fc\.bias' is missing"):
        build_efficientnet_lite(weights, STAGES, SIZE)


def test_quantizing_without_calibration_or_a_graph_says_so(graphs: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="at least one batch"):
        quantize_static_int8(graphs / "fp32.onnx", tmp_path / "int8.onnx", [])
    (tmp_path / "no.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelError, match=r"no\.onnx: cannot be quantized"):
        quantize_static_int8(tmp_path / "no.onnx", tmp_path / "int8.onnx", [{"pixels": some_pixels(1)}])
