"""What a decoder is made of: its numbers, and the names and shapes of its weights.

Weights, by name; all float32, matrices [out, in]. ``<i>`` counts layers from 0:

    embed                    [vocabulary, hidden]; also the head
    positions                [max_length, hidden]                                     gpt2 only
    layers.<i>.attn_norm     [hidden]
    layers.<i>.qkv           [(heads + 2 * kv_heads) * head_size, hidden], rows of q, then k, then v
    layers.<i>.o             [hidden, heads * head_size]
    layers.<i>.mlp_norm      [hidden]
    layers.<i>.gate_up       [2 * mlp, hidden], rows of gate, then up                  llama only
    layers.<i>.up            [mlp, hidden]                                            gpt2 only
    layers.<i>.down          [hidden, mlp]
    final_norm               [hidden]
    <name>.bias              [out]: of attn_norm, qkv, o, mlp_norm, up, down, final_norm    gpt2 only
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.factory.projections import BLOCK

__all__ = ["DecoderSpec", "Weights", "check_weights", "weight_shapes"]

Weights = Mapping[str, npt.NDArray[np.float32]]


class DecoderSpec(Struct, frozen=True, kw_only=True):
    """The numbers of a decoder.

    Attributes:
        shape: ``llama`` or ``gpt2``.
        hidden: width of the residual stream; a multiple of 32.
        mlp: width inside the feed-forward part; a multiple of 32.
        max_length: the longest sequence: the size of the rotary caches or of ``positions``.
        epsilon: of the norms.
        rope_theta: base of the rotary frequencies (llama).
        rope_interleaved: rotary pairs are neighbours (GGUF's layout) instead of halves (Hugging Face's).
    """

    shape: Literal["llama", "gpt2"]
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    mlp: int
    vocabulary: int
    max_length: int
    epsilon: float = 1e-5
    rope_theta: float = 10_000.0
    rope_interleaved: bool = False


def weight_shapes(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    """The name and shape of every weight that :func:`build_decoder` wants."""
    wide = spec.heads * spec.head_size
    biased = spec.shape == "gpt2"
    up = "up" if biased else "gate_up"
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (spec.hidden,),
        "qkv": (wide + 2 * spec.kv_heads * spec.head_size, spec.hidden),
        "o": (spec.hidden, wide),
        "mlp_norm": (spec.hidden,),
        up: (spec.mlp if biased else 2 * spec.mlp, spec.hidden),
        "down": (spec.hidden, spec.mlp),
    }
    shapes = {f"layers.{i}.{name}": size for i in range(spec.layers) for name, size in layer.items()}
    shapes["final_norm"] = (spec.hidden,)
    if biased:
        shapes |= {f"{name}.bias": size[:1] for name, size in shapes.items()}
        shapes["positions"] = (spec.max_length, spec.hidden)
    return shapes | {"embed": (spec.vocabulary, spec.hidden)}


def check_weights(spec: DecoderSpec, weights: Weights) -> None:
    """Raise ModelError when a weight is missing, unknown or of the wrong shape, or a width is not whole blocks."""
    for width in (spec.hidden, spec.mlp, spec.heads * spec.head_size):
        if width % BLOCK:
            raise ModelError(f"decoder: a width of {width} is not a multiple of {BLOCK}, the block of INT8 weights.")
    wanted = weight_shapes(spec)
    if missing := sorted(wanted.keys() - weights.keys()):
        raise ModelError(f"decoder: weights are missing: {', '.join(missing[:5])} ({len(missing)} in all).")
    if unknown := sorted(weights.keys() - wanted.keys()):
        raise ModelError(f"decoder: weights of unknown names: {', '.join(unknown[:5])} ({len(unknown)} in all).")
    for name, shape in wanted.items():
        if weights[name].shape != shape:
            raise ModelError(f"decoder: weight {name} is {list(weights[name].shape)}, it must be {list(shape)}.")
