"""Tiny decoders with random weights, and how what is made of them is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from pipeline.factory.decoders.graph import build_decoder
from pipeline.factory.decoders.spec import DecoderSpec, weight_shapes
from pipeline.runtime.onnx import OnnxBackend, OnnxDecoder
from pipeline.runtime.session import CacheLayout, Floats
from pipeline.settings import RuntimeSettings

SLOTS, LENGTH = 4, 32
SETTINGS = RuntimeSettings(provider="cpu", threads=1)


def fp32(shape: Any, outlier: float = 1.0, **more: Any) -> tuple[DecoderSpec, onnx.ModelProto]:
    """A tiny decoder; token 5 is ``outlier`` times as large as the others."""
    sizes = {"hidden": 64, "heads": 4, "kv_heads": 4, "head_size": 16, "mlp": 96, "vocabulary": 80}
    spec = DecoderSpec(shape=shape, layers=2, **(sizes | {"max_length": LENGTH} | more))
    rng = np.random.default_rng(3)
    weights = {name: rng.normal(0, 0.2, size).astype(np.float32) for name, size in weight_shapes(spec).items()}
    weights["embed"][5] *= outlier
    return spec, build_decoder(spec, weights)


def opened(folder: Path, spec: DecoderSpec, model: onnx.ModelProto) -> OnnxDecoder:
    onnx.save(model, folder / "decoder.onnx")
    layout = CacheLayout.of(spec, slots=SLOTS, max_length=spec.max_length)
    return OnnxBackend(SETTINGS).open_decoder(folder / "decoder.onnx", layout)


def steps(decoder: OnnxDecoder, ids: Any, first: int = 0) -> Floats:
    """Logits [T, N, vocabulary] of reading ``ids`` [N, T] token by token."""
    count, length = ids.shape
    return np.stack(
        [decoder.step(first, ids[:, at : at + 1], np.full(count, at, np.int64)).copy() for at in range(length)]
    )


def some_ids() -> Any:
    return np.random.default_rng(3).integers(0, 80, (SLOTS, 10))
