"""Prompts that are read in floats from a cache in INT8: as steps would, wherever they are cut, and into it alone."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from pipeline.factory.decoders.spec import DecoderSpec
from pipeline.factory.quantize.cache import quantize_cache
from pipeline.factory.quantize.decoder_channels import channel_maxima, decoder_feeds
from pipeline.factory.quantize.prompts import with_prompts_in_floats
from pipeline.factory.quantize.rows import quantize_rows
from pipeline.runtime.onnx import OnnxDecoder
from pipeline.runtime.session import Floats, IntArray
from tests.unit.pipeline.factory.quantize.decoders import fp32, opened, some_ids, steps

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"shape": "gpt2"},
    "halves": {"shape": "llama"},
    "interleaved": {"shape": "llama", "rope_interleaved": True},
    "normed heads": {"shape": "llama", "qk_norm": True},
    "grouped heads": {"shape": "llama", "kv_heads": 2},
}
shapes = pytest.mark.parametrize("shape", SHAPES)


def made(folder: Path, *, least_widening: float | None = 0.0, **fields: Any) -> tuple[DecoderSpec, onnx.ModelProto]:
    """A decoder with a cache in INT8, its products in INT8 rows, those that widen less in blocks, or all in FP32."""
    spec, full = fp32(**fields)
    onnx.save(full, folder / "fp32.onnx")
    maxima = channel_maxima(folder / "fp32.onnx", decoder_feeds(some_ids(), np.full(4, 10), spec))
    quantized = full if least_widening is None else quantize_rows(full, least_widening=least_widening)
    return spec, quantize_cache(quantized, maxima.cached)


def read(decoder: OnnxDecoder, slot: int, ids: IntArray, *cuts: int) -> Floats:
    """The logits after ``ids`` [1, T], which are read in pieces."""
    logits = np.empty(0, np.float32)
    for begin, end in pairwise((0, *cuts, ids.shape[1])):
        logits = decoder.step(slot, ids[:, begin:end], np.array([begin])).copy()
    return logits


@shapes
def test_a_prompt_is_read_as_its_steps_would(tmp_path: Path, shape: str) -> None:
    spec, model = made(tmp_path, least_widening=None, **SHAPES[shape])
    decoder, ids = opened(tmp_path, spec, model), some_ids()[:1]
    expected = steps(decoder, ids)[-1]
    got = read(decoder, 1, ids)
    assert (got != expected).any(), "they add up in another order"
    assert np.linalg.norm(got - expected) / np.linalg.norm(expected) < 1e-3


@shapes
@pytest.mark.parametrize("cuts", [(2,), (3, 6), (2, 4, 6, 8), (7,), (8,)])
def test_a_prompt_in_pieces_is_bit_for_bit_one_at_once(tmp_path: Path, shape: str, cuts: tuple[int, ...]) -> None:
    spec, model = made(tmp_path, **SHAPES[shape])
    decoder, ids = opened(tmp_path, spec, model), some_ids()[:1]
    np.testing.assert_array_equal(read(decoder, 1, ids, *cuts), read(decoder, 0, ids))


@pytest.mark.parametrize("cuts", [range(128, 600, 128), range(100, 600, 100), (2, 598), (257, 513)])
def test_a_long_prompt_in_pieces_is_bit_for_bit_one_at_once(tmp_path: Path, cuts: Any) -> None:
    """Products of more than 256 numbers are added up in parts."""
    spec, model = made(tmp_path, least_widening=2.0, shape="llama", kv_heads=2, max_length=640)
    decoder, ids = opened(tmp_path, spec, model), np.random.default_rng(1).integers(0, 80, (1, 600))
    np.testing.assert_array_equal(read(decoder, 1, ids, *cuts), read(decoder, 0, ids))


@shapes
def test_steps_go_on_from_a_prompt_wherever_that_was_cut(tmp_path: Path, shape: str) -> None:
    spec, model = made(tmp_path, **SHAPES[shape])
    decoder, ids = opened(tmp_path, spec, model), some_ids()[:1]
    read(decoder, 0, ids)
    read(decoder, 1, ids, 4)
    for length in (10, 11):
        both = decoder.step(0, np.array([[7], [7]]), np.array([length, length])).copy()
        np.testing.assert_array_equal(both[0], both[1])
        np.testing.assert_array_equal(decoder.step(1, np.array([[7]]), np.array([length]))[0], both[0])


def test_a_prompt_touches_no_slot_but_its_own(tmp_path: Path) -> None:
    spec, model = made(tmp_path, shape="llama")
    decoder, ids = opened(tmp_path, spec, model), some_ids()
    expected = read(decoder, 1, ids[1:2])
    read(decoder, 1, ids[1:2, :6])
    for slot in (0, 2):
        read(decoder, slot, ids[slot : slot + 1], 5)
    np.testing.assert_array_equal(decoder.step(1, ids[1:2, 6:], np.array([6])), expected)


def test_a_slot_can_be_filled_to_its_end(tmp_path: Path) -> None:
    spec, model = made(tmp_path, shape="llama")
    decoder, ids = opened(tmp_path, spec, model), np.random.default_rng(1).integers(0, 80, (1, spec.max_length))
    np.testing.assert_array_equal(read(decoder, 1, ids, spec.max_length - 2), read(decoder, 0, ids))


def test_no_weight_is_held_twice(tmp_path: Path) -> None:
    _, model = made(tmp_path, shape="llama")
    nodes = [node for node in model.graph.node if node.op_type == "If"]
    branches = [item.g for node in nodes for item in node.attribute]
    assert len(branches) == 2 * 2
    assert max(len(item.raw_data) for branch in branches for item in branch.initializer) < 100


def test_a_graph_without_attention_stays_as_it_is() -> None:
    model = onnx.ModelProto()
    assert with_prompts_in_floats(model) == model
