"""A KV cache in INT8: near FP32 however deep, and what is read of a text is its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from pipeline.factory.decoders.spec import DecoderSpec
from pipeline.factory.quantize.cache import cache_maxima, cache_type, quantize_cache
from pipeline.factory.quantize.decoder_channels import channel_maxima, decoder_feed, decoder_feeds
from pipeline.factory.quantize.float16 import to_float16
from pipeline.factory.quantize.rows import quantize_rows
from pipeline.runtime.onnx import open_session
from pipeline.runtime.session import IntArray
from tests.unit.pipeline.factory.quantize.decoders import LENGTH, SETTINGS, SLOTS, fp32, opened, some_ids, steps

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"shape": "gpt2"},
    "halves": {"shape": "llama"},
    "interleaved": {"shape": "llama", "rope_interleaved": True},
    "normed heads": {"shape": "llama", "qk_norm": True},
}
shapes = pytest.mark.parametrize("shape", SHAPES)


def made(
    folder: Path, shape: str, ids: IntArray | None = None, *, rows: bool = False
) -> tuple[DecoderSpec, onnx.ModelProto, onnx.ModelProto]:
    """The FP32 graph, and the same, in INT8 rows or not, with a cache in INT8 calibrated on ``ids`` [N, T]."""
    spec, full = fp32(**SHAPES[shape])
    onnx.save(full, folder / "fp32.onnx")
    ids = some_ids() if ids is None else ids
    maxima = channel_maxima(folder / "fp32.onnx", decoder_feeds(ids, np.full(len(ids), ids.shape[1]), spec))
    return spec, full, quantize_cache(quantize_rows(full) if rows else full, maxima.cached)


def cached(folder: Path, model: onnx.ModelProto, spec: DecoderSpec, ids: IntArray) -> dict[str, Any]:
    onnx.save(model, folder / "read.onnx")
    feed = decoder_feed(ids, spec)
    if cache_type(model) == "int8":
        feed = {name: value.astype(np.int8) if name.startswith("past_") else value for name, value in feed.items()}
    return dict(open_session(folder / "read.onnx", SETTINGS).run(feed))


@shapes
def test_it_stays_close_to_fp32(tmp_path: Path, shape: str) -> None:
    spec, full, ours = made(tmp_path, shape)
    expected = steps(opened(tmp_path, spec, full), some_ids())
    got = steps(opened(tmp_path, spec, ours), some_ids())
    assert 0 < np.linalg.norm(expected - got) / np.linalg.norm(expected) < 0.02


@shapes
def test_what_is_cached_are_steps_of_each_channels_own_scale(tmp_path: Path, shape: str) -> None:
    """Of the first layer, which reads the same in both graphs."""
    spec, full, ours = made(tmp_path, shape)
    scales = {item.name: onnx.numpy_helper.to_array(item) for item in ours.graph.initializer}
    ids = some_ids()[:1]
    floats, integers = cached(tmp_path, full, spec, ids), cached(tmp_path, ours, spec, ids)
    for name in ("present_key_0", "present_value_0"):
        scale = scales[f"{name}.scales"]
        assert scale.shape == (1, spec.kv_heads, 1, spec.head_size)
        assert np.unique(scale).size > spec.kv_heads * spec.head_size / 4, "they differ"
        np.testing.assert_allclose(integers[name], np.rint(floats[name] / scale), atol=1)
        assert 60 < np.abs(integers[name]).max() <= 127


@shapes
def test_it_stays_close_to_fp32_beyond_the_longest_sample(tmp_path: Path, shape: str) -> None:
    """Further on, rotary positions turn a large channel of a key into one that was small in every sample."""
    text = np.full((1, LENGTH - 1), 7)
    spec, full, ours = made(tmp_path, shape, text[:, :3])
    expected, got = (steps(opened(tmp_path, spec, model), text)[-1] for model in (full, ours))
    bound = 0.05 if shape != "gpt2" else 0.5  # learned positions differ from each other, whatever the scales are
    assert np.linalg.norm(expected - got) / np.linalg.norm(expected) < bound


@pytest.mark.parametrize(("interleaved", "expected"), [(False, [3, 13, 3, 13]), (True, [5, 5, 12, 12])])
def test_two_channels_that_turn_into_each_other_get_the_length_of_both(interleaved: bool, expected: list[int]) -> None:
    _, model = fp32("llama", rope_interleaved=interleaved)
    key = [3, -4, 0, 12] if interleaved else [3, 5, 0, -12]
    found = np.array([[[[0, 0, 0, 0], key]]], np.float32)
    maxima = cache_maxima(model, {f"present_{part}_{layer}": found for part in ("key", "value") for layer in range(2)})
    assert maxima["present_key_1"].tolist() == [expected]
    assert maxima["present_value_1"].tolist() == [np.abs(key).tolist()]


@shapes
def test_a_row_is_bit_equal_alone_and_beside_others(tmp_path: Path, shape: str) -> None:
    spec, _, ours = made(tmp_path, shape, rows=True)
    decoder, ids = opened(tmp_path, spec, ours), some_ids()
    together = steps(decoder, ids)
    for row in range(SLOTS):
        np.testing.assert_array_equal(together[:, row], steps(decoder, ids[row : row + 1], first=row)[:, 0])


def test_a_moved_sequence_goes_on_in_its_new_slot(tmp_path: Path) -> None:
    spec, _, ours = made(tmp_path, "halves")
    decoder, ids = opened(tmp_path, spec, ours), some_ids()[:1]
    decoder.step(3, ids, np.array([0]))
    decoder.step(0, ids[:, ::-1], np.array([0]))
    following = np.array([[7]]), np.array([ids.shape[1]])
    expected = decoder.step(3, *following).copy()
    assert (decoder.step(0, *following) != expected).any()
    decoder.move(3, 0, ids.shape[1])
    np.testing.assert_array_equal(decoder.step(0, *following), expected)


def test_channels_that_no_sample_fills_are_zeros_and_no_faults(tmp_path: Path) -> None:
    spec, full = fp32("gpt2")
    nothing = np.zeros((spec.kv_heads, spec.head_size), np.float32)
    maxima = {f"present_{part}_{layer}": nothing for part in ("key", "value") for layer in range(spec.layers)}
    assert np.isfinite(steps(opened(tmp_path, spec, quantize_cache(full, maxima)), some_ids())).all()


def test_a_graphs_caches_are_named_by_their_type(tmp_path: Path) -> None:
    _, full, ours = made(tmp_path, "gpt2")
    assert [cache_type(model) for model in (full, to_float16(full), ours)] == ["float32", "float16", "int8"]
    assert cache_type(onnx.ModelProto()) is None
