"""Evening out channels: the same logits in FP32, and nearer ones in INT8 where single channels stand out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from pipeline.factory.decoders.graph import build_decoder
from pipeline.factory.decoders.spec import DecoderSpec, weight_shapes
from pipeline.factory.quantize.cache import cache_type
from pipeline.factory.quantize.calibration import MAIN
from pipeline.factory.quantize.decoder_channels import SMOOTHING, channel_maxima, decoder_feeds
from pipeline.factory.quantize.rows import quantize_rows
from pipeline.factory.quantize.smooth import smooth
from pipeline.factory.quantize.variants import Material, drafts
from pipeline.models.card import TextSpec
from pipeline.runtime.onnx import OnnxBackend, open_session
from pipeline.runtime.session import CacheLayout, Floats
from pipeline.settings import RuntimeSettings

TEXT = TextSpec(
    tokenizer="t", layers=2, kv_heads=4, head_size=16, vocabulary=80, max_length=32, eos_token_ids=()
)  # fmt: skip
IDS = np.random.default_rng(3).integers(0, 80, (4, 12))
LENGTHS = np.array([12, 9, 5, 12])


def save_fp32(folder: Path, shape: Any, data: bool = False) -> Path:
    """A decoder with a few channels that are much larger behind its norms."""
    spec = DecoderSpec(
        shape=shape, layers=2, hidden=64, heads=4, kv_heads=4, head_size=16, mlp=96, vocabulary=80, max_length=32
    )
    rng = np.random.default_rng(3)
    weights = {name: rng.normal(0, 0.2, size).astype(np.float32) for name, size in weight_shapes(spec).items()}
    for name in weights:
        if name.endswith("norm"):
            weights[name] = np.ones(64, np.float32)
            weights[name][[3, 40]] = 30
    path = folder / "fp32.onnx"
    onnx.save(build_decoder(spec, weights, folder / "fp32.onnx.data" if data else None), path)
    return path


def logits(model: onnx.ModelProto, folder: Path) -> Floats:
    onnx.save(model, folder / "tried.onnx")
    layout = CacheLayout.of(TEXT, slots=1, max_length=TEXT.max_length)
    decoder = OnnxBackend(RuntimeSettings(provider="cpu", threads=1)).open_decoder(folder / "tried.onnx", layout)
    rows = (ids[None, :length] for ids, length in zip(IDS, LENGTHS, strict=True))
    return np.concatenate([decoder.step(0, row, np.zeros(1, np.int64)).copy() for row in rows])


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
@pytest.mark.parametrize("data", [False, True])
def test_fp32_stays_the_same_and_int8_comes_nearer(tmp_path: Path, shape: str, data: bool) -> None:
    path = save_fp32(tmp_path, shape, data)
    model = onnx.load(path)
    full, plain = logits(model, tmp_path), logits(quantize_rows(model), tmp_path)
    maxima = channel_maxima(path, decoder_feeds(IDS, LENGTHS, TEXT))
    assert len(maxima.behind_norms) == 4, "two norms a layer; of the last one the rows are picked out first"
    model = smooth(model, maxima.behind_norms, SMOOTHING)
    np.testing.assert_allclose(logits(model, tmp_path), full, atol=2e-4 * np.abs(full).max())
    ours = logits(quantize_rows(model), tmp_path)
    assert np.linalg.norm(ours - full) < 0.7 * np.linalg.norm(plain - full)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    channel_maxima(save_fp32(tmp_path, "gpt2"), decoder_feeds(IDS, LENGTHS, TEXT))
    assert [path.name for path in tmp_path.iterdir()] == ["fp32.onnx"]


def material(path: Path, **feeds: Any) -> Material:
    return Material(task="text-generation", graphs={MAIN: path}, feeds=feeds, progress=lambda _: None)


def test_the_largest_keys_and_values_are_of_whole_texts_their_first_tokens_too(tmp_path: Path) -> None:
    path = save_fp32(tmp_path, "gpt2")
    feeds = decoder_feeds(IDS, LENGTHS, TEXT)
    session = open_session(path, RuntimeSettings(provider="cpu", threads=1))
    values = [np.abs(session.run(feed)["present_value_1"]).max(axis=(0, 2)) for feed in feeds]
    maxima = channel_maxima(path, feeds).cached
    np.testing.assert_allclose(maxima["present_value_1"], np.max(values, axis=0), rtol=1e-5)
    assert sorted(maxima) == [f"present_{part}_{layer}" for part in ("key", "value") for layer in range(2)]


def test_without_samples_a_cache_stays_in_floats(tmp_path: Path) -> None:
    assert {cache_type(draft.graphs[MAIN]) for draft in drafts("int8", material(save_fp32(tmp_path, "llama")))} == {
        "float32"
    }


def test_the_int8_of_a_decoder_is_tried_from_the_fastest_to_the_most_exact(tmp_path: Path) -> None:
    path = save_fp32(tmp_path, "llama")
    found = list(drafts("int8", material(path, **{MAIN: decoder_feeds(IDS, LENGTHS, TEXT)})))
    full = logits(onnx.load(path), tmp_path)
    errors = [float(np.linalg.norm(logits(draft.graphs[MAIN], tmp_path) - full)) for draft in found]
    assert errors[-1] == min(errors)
    assert ["evened out" in draft.method for draft in found] == [True] * 6 + [False] * 2
    assert ["blocks" in draft.method for draft in found] == [False, True, True, False, True, True, True, True]
    caches = [*["int8"] * 3, *["float32"] * 3, "int8", "float32"]
    assert [cache_type(draft.graphs[MAIN]) for draft in found] == caches
    assert ["KV cache INT8" in draft.method for draft in found] == [cache == "int8" for cache in caches]
