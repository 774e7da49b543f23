"""What a decoder is made of: its numbers, and the names and shapes of its weights.

Weights, by name; all float32, matrices [out, in]. ``<i>`` counts layers from 0:

    embed                    [vocabulary, hidden]; also the head, unless the spec says ``untied``
    head                     [vocabulary, hidden]                                     untied only
    positions                [max_length, hidden]                                     gpt2 only
    layers.<i>.attn_norm     [hidden]
    layers.<i>.qkv           [(heads + 2 * kv_heads) * head_size, hidden], rows of q, then k, then v
    layers.<i>.q_norm        [head_size], and ``k_norm``: RMS norms of each head      with ``qk_norm`` only
    layers.<i>.o             [hidden, heads * head_size]
    layers.<i>.mlp_norm      [hidden]
    layers.<i>.gate_up       [2 * mlp, hidden], rows of gate, then up                  llama only
    layers.<i>.up            [mlp, hidden]                                            gpt2 only
    layers.<i>.down          [hidden, mlp]
    final_norm               [hidden]
    <name>.bias              [out]: of all but embed, head and positions in gpt2; of those in ``biased`` in llama
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.factory.decoders.rope import Rope

__all__ = ["Biased", "DecoderSpec", "Weights", "checked_weights", "weight_shapes"]

Weights = Mapping[str, npt.NDArray[np.float32]]
Biased = Literal["qkv", "o", "gate_up", "down"]


class DecoderSpec(Struct, frozen=True, kw_only=True):
    """The numbers of a decoder.

    Attributes:
        shape: ``llama`` or ``gpt2``.
        hidden: width of the residual stream.
        mlp: width inside the feed-forward part.
        max_length: the longest sequence: the size of the rotary caches or of ``positions``.
        epsilon: of the norms.
        rope: the rotary frequencies (llama).
        rope_interleaved: rotary pairs are neighbours (GGUF's layout) instead of halves (Hugging Face's).
        untied: the head is a matrix of its own.
        biased: the products that have a bias (llama; in gpt2 all have).
        qk_norm: queries and keys are normed by head before they are turned (llama).
        image_token_id: where ``input_ids`` are this, the row comes from the input ``image_embeds``; ``None`` for a
            decoder of texts alone.
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
    rope: Rope = Rope()
    rope_interleaved: bool = False
    untied: bool = False
    biased: tuple[Biased, ...] = ()
    qk_norm: bool = False
    image_token_id: int | None = None


def weight_shapes(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    """The name and shape of every weight that :func:`build_decoder` wants."""
    layer = _layer_shapes(spec)
    shapes = {f"layers.{i}.{name}": size for i in range(spec.layers) for name, size in layer.items()}
    shapes["final_norm"] = (spec.hidden,)
    if spec.shape == "gpt2":
        shapes |= {f"{name}.bias": size[:1] for name, size in shapes.items()}
        shapes["positions"] = (spec.max_length, spec.hidden)
    shapes["embed"] = (spec.vocabulary, spec.hidden)
    return shapes | ({"head": shapes["embed"]} if spec.untied else {})


def _layer_shapes(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    wide, gpt2 = spec.heads * spec.head_size, spec.shape == "gpt2"
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (spec.hidden,),
        "qkv": (wide + 2 * spec.kv_heads * spec.head_size, spec.hidden),
        "o": (spec.hidden, wide),
        "mlp_norm": (spec.hidden,),
        "up" if gpt2 else "gate_up": (spec.mlp if gpt2 else 2 * spec.mlp, spec.hidden),
        "down": (spec.hidden, spec.mlp),
    }
    shapes |= {f"{name}.bias": shapes[name][:1] for name in spec.biased}
    return shapes | (dict.fromkeys(("q_norm", "k_norm"), (spec.head_size,)) if spec.qk_norm else {})


def checked_weights(spec: DecoderSpec, weights: Weights) -> Weights:
    """``weights``, whose names are as they must be. Of a wrong shape is told when the weight is asked for.

    Raises:
        ModelError: a weight is missing or unknown.
    """
    wanted = weight_shapes(spec)
    if missing := sorted(wanted.keys() - weights.keys()):
        raise ModelError(f"decoder: weights are missing: {', '.join(missing[:5])} ({len(missing)} in all).")
    if unknown := sorted(weights.keys() - wanted.keys()):
        raise ModelError(f"decoder: weights of unknown names: {', '.join(unknown[:5])} ({len(unknown)} in all).")
    return _Checked(wanted, weights)


class _Checked(Weights):
    """They may be read from a file one by one, so none is taken before its turn."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], weights: Weights) -> None:
        self._shapes, self._weights = shapes, weights

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        weight = self._weights[name]
        if weight.shape != self._shapes[name]:
            wanted = list(self._shapes[name])
            raise ModelError(f"decoder: weight {name} is {list(weight.shape)}, it must be {wanted}.")
        return weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
