"""What a transformer encoder is made of: its numbers, and the names of its weights.

Weights, by name; all float32, matrices [out, in], each with ``<name>.bias`` [out] unless said otherwise. ``<i>`` counts
layers from 0:

    layers.<i>.q, .k, .v     [hidden, hidden]
    layers.<i>.o             [hidden, hidden]
    layers.<i>.attn_norm     [hidden]: after the attention, or before it with ``norm_first``
    layers.<i>.up            [mlp, hidden]
    layers.<i>.down          [hidden, mlp]
    layers.<i>.mlp_norm      [hidden]: after the feed-forward part, or before it with ``norm_first``

What stands before and behind the layers is in :mod:`pipeline.factory.encoders.text` and
:mod:`pipeline.factory.encoders.image`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeVar

import msgspec
from msgspec import Struct

from pipeline.errors import ModelError

__all__ = ["Activation", "TransformerSpec", "activation_of", "read_config", "transformer_of"]

Activation = Literal["gelu", "tanh_gelu", "quick_gelu", "relu"]
Config = TypeVar("Config")
# By transformers' names, of which several are one function.
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "tanh_gelu",
    "gelu_fast": "tanh_gelu",
    "gelu_pytorch_tanh": "tanh_gelu",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}


class TransformerSpec(Struct, frozen=True, kw_only=True):
    """The numbers of the layers.

    Attributes:
        hidden: width of the residual stream.
        mlp: width inside the feed-forward part.
        epsilon: of the norms.
        activation: in the feed-forward part.
        norm_first: whether norms stand before attention and feed-forward part (ViT, CLIP) or after them (BERT).
        causal: whether a token sees only itself and those before it.
        qkv_bias: whether ``q``, ``k`` and ``v`` have a bias.
    """

    layers: int
    hidden: int
    heads: int
    mlp: int
    epsilon: float
    activation: Activation
    norm_first: bool = False
    causal: bool = False
    qkv_bias: bool = True


class _LayersConfig(Protocol):
    """What most configurations of transformers call the numbers of their layers."""

    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def layer_norm_eps(self) -> float: ...
    @property
    def hidden_act(self) -> str: ...


def transformer_of(config: _LayersConfig, where: str) -> TransformerSpec:
    """The layers that ``config`` describes, norms after them; ``where`` is for the message. Raises ModelError."""
    return TransformerSpec(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        mlp=config.intermediate_size,
        epsilon=config.layer_norm_eps,
        activation=activation_of(config.hidden_act, where),
    )


def activation_of(name: str, where: str) -> Activation:
    """The activation that a configuration calls ``name``; ``where`` is for the message. Raises ModelError."""
    if name not in ACTIVATIONS:
        raise ModelError(f"{where}: the activation {name!r} is not built; these are: {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


def read_config(content: Mapping[str, Any], kind: type[Config], where: str) -> Config:
    """``content`` of a ``config.json`` as ``kind``; ``where`` is for the message. Raises ModelError."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise ModelError(f"{where}: its config.json is not one of this architecture: {error}.") from error
