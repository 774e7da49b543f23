"""The written graphs against a decoder of a few lines of numpy, in both shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.decoders.graph import build_decoder
from pipeline.factory.decoders.spec import DecoderSpec, weight_shapes
from pipeline.runtime.onnx import OnnxBackend, OnnxDecoder
from pipeline.runtime.session import CacheLayout
from pipeline.settings import RuntimeSettings

Floats = npt.NDArray[np.float32]
SLOTS, LENGTH = 4, 32
LLAMA = DecoderSpec(
    shape="llama", layers=2, hidden=64, heads=4, kv_heads=2, head_size=16, mlp=96, vocabulary=80, max_length=LENGTH
)
GPT2 = DecoderSpec(
    shape="gpt2", layers=2, hidden=64, heads=4, kv_heads=4, head_size=16, mlp=96, vocabulary=80, max_length=LENGTH
)
SPECS = [LLAMA, replace(LLAMA, rope_interleaved=True), GPT2]


def random_weights(spec: DecoderSpec) -> dict[str, Floats]:
    rng = np.random.default_rng(7)
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in weight_shapes(spec).items()}


def open_decoder(folder: Path, spec: DecoderSpec) -> OnnxDecoder:
    path = folder / f"{spec.shape}.onnx"
    onnx.save(build_decoder(spec, random_weights(spec)), path)
    layout = CacheLayout.of(spec, slots=SLOTS, max_length=LENGTH)
    return OnnxBackend(RuntimeSettings(provider="cpu", threads=1)).open_decoder(path, layout)


def steps(decoder: OnnxDecoder, ids: npt.NDArray[np.int64], first: int = 0) -> Floats:
    """Logits [T, N, vocabulary] of reading ``ids`` [N, T] token by token."""
    count, length = ids.shape
    return np.stack(
        [decoder.step(first, ids[:, at : at + 1], np.full(count, at, np.int64)).copy() for at in range(length)]
    )


def norm(x: Floats, spec: DecoderSpec, w: dict[str, Floats], name: str) -> Any:
    if spec.shape == "llama":
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + spec.epsilon) * w[name]
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + spec.epsilon) * w[name] + w[f"{name}.bias"]


def linear(x: Any, w: dict[str, Floats], name: str) -> Any:
    return x @ w[name].T + w.get(f"{name}.bias", np.float32(0))


def rotate(x: Any, spec: DecoderSpec) -> Any:
    """Rotary positions of x [T, heads, head_size]: pairs of neighbours, or of halves."""
    half = spec.head_size // 2
    angles = np.outer(np.arange(len(x)), spec.rope.theta ** (-np.arange(half) / half))[:, None]
    pairs = (slice(0, None, 2), slice(1, None, 2)) if spec.rope_interleaved else (slice(0, half), slice(half, None))
    a, b = x[..., pairs[0]], x[..., pairs[1]]
    turned = np.empty_like(x)
    turned[..., pairs[0]] = a * np.cos(angles) - b * np.sin(angles)
    turned[..., pairs[1]] = a * np.sin(angles) + b * np.cos(angles)
    return turned


def attention(packed: Any, spec: DecoderSpec) -> Any:
    heads = packed.reshape(len(packed), -1, spec.head_size)
    q, k, v = np.split(heads, [spec.heads, spec.heads + spec.kv_heads], axis=1)
    if spec.shape == "llama":
        q, k = rotate(q, spec), rotate(k, spec)
    k, v = (np.repeat(x, spec.heads // spec.kv_heads, axis=1) for x in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(spec.head_size)
    scores[:, ~np.tri(len(packed), dtype=bool)] = -np.inf
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", shares, v).reshape(len(packed), -1)


def feed_forward(x: Any, spec: DecoderSpec, w: dict[str, Floats], name: str) -> Any:
    if spec.shape == "llama":
        gate, up = np.split(linear(x, w, f"{name}.gate_up"), 2, axis=-1)
        return linear(gate / (1 + np.exp(-gate)) * up, w, f"{name}.down")
    up = linear(x, w, f"{name}.up")
    return linear(up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3))) / 2, w, f"{name}.down")


def reference(ids: npt.NDArray[np.int64], spec: DecoderSpec) -> Any:
    """Logits [T, vocabulary] after each token of ``ids`` [T], without a cache."""
    w = random_weights(spec)
    x = w["embed"][ids] + (w["positions"][: len(ids)] if spec.shape == "gpt2" else 0)
    for layer in range(spec.layers):
        name = f"layers.{layer}"
        qkv = linear(norm(x, spec, w, f"{name}.attn_norm"), w, f"{name}.qkv")
        x = x + linear(attention(qkv, spec), w, f"{name}.o")
        x = x + feed_forward(norm(x, spec, w, f"{name}.mlp_norm"), spec, w, name)
    return norm(x, spec, w, "final_norm") @ w["embed"].T


def some_ids(rows: int, length: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(3).integers(0, 80, (rows, length))


@pytest.mark.parametrize("spec", SPECS, ids=["halves", "interleaved", "gpt2"])
def test_the_graph_computes_what_the_formulas_say(tmp_path: Path, spec: DecoderSpec) -> None:
    ids = some_ids(2, 12)
    got = steps(open_decoder(tmp_path, spec), ids)
    for row in range(2):
        np.testing.assert_allclose(got[:, row], reference(ids[row], spec), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("spec", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_reading_a_prompt_in_chunks_equals_reading_it_at_once(tmp_path: Path, spec: DecoderSpec) -> None:
    ids = some_ids(1, 12)
    decoder = open_decoder(tmp_path, spec)
    whole = decoder.step(0, ids, np.array([0])).copy()
    decoder.step(1, ids[:, :5], np.array([0]))
    chunked = decoder.step(1, ids[:, 5:], np.array([5])).copy()
    np.testing.assert_allclose(whole, chunked, atol=2e-3)


def test_sequences_of_different_lengths_share_a_step(tmp_path: Path) -> None:
    ids = some_ids(2, 9)
    decoder = open_decoder(tmp_path, GPT2)
    decoder.step(0, ids[:1, :8], np.array([0]))
    decoder.step(1, ids[1:, :3], np.array([0]))
    got = decoder.step(0, np.array([[ids[0, 8]], [ids[1, 3]]]), np.array([8, 3])).copy()
    np.testing.assert_allclose(got[0], reference(ids[0], GPT2)[8], atol=2e-3, rtol=1e-3)
    np.testing.assert_allclose(got[1], reference(ids[1, :4], GPT2)[3], atol=2e-3, rtol=1e-3)


def test_the_same_weights_give_the_same_file() -> None:
    first, second = (build_decoder(LLAMA, random_weights(LLAMA)).SerializeToString() for _ in range(2))
    assert first == second


def test_missing_unknown_and_misshapen_weights_are_named() -> None:
    weights = random_weights(LLAMA)
    with pytest.raises(ModelError, match=r"missing: layers\.1\.o "):
        build_decoder(LLAMA, {name: w for name, w in weights.items() if name != "layers.1.o"})
    with pytest.raises(ModelError, match=r"unknown names: head "):
        build_decoder(LLAMA, {**weights, "head": weights["embed"]})
    with pytest.raises(ModelError, match=r"embed is \[64, 80\], it must be \[80, 64\]"):
        build_decoder(LLAMA, {**weights, "embed": weights["embed"].T})
