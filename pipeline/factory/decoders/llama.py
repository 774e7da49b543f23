"""The numbers of a decoder of the Llama shape, from a Hugging Face configuration."""

from __future__ import annotations

from typing import Any

import msgspec

from pipeline.errors import ModelError
from pipeline.factory.decoders.rope import read_rope
from pipeline.factory.decoders.spec import Biased, DecoderSpec
from pipeline.factory.sources.heads import check_heads
from pipeline.numbers import Positive

__all__ = ["MODEL_TYPES", "llama_spec"]

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


class _Config(msgspec.Struct, frozen=True):
    """What is read of the configuration, with the defaults of transformers' LlamaConfig."""

    model_type: str
    hidden_size: Positive = 4_096
    intermediate_size: Positive = 11_008
    num_hidden_layers: Positive = 32
    num_attention_heads: Positive = 32
    num_key_value_heads: Positive | None = None
    head_dim: Positive | None = None
    vocab_size: Positive = 32_000
    max_position_embeddings: Positive = 2_048
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    sliding_window: int | None = None
    use_sliding_window: bool = True


def llama_spec(config: dict[str, Any], where: str, *, image_token_id: int | None = None) -> DecoderSpec:
    """The spec of a Llama, Mistral, Qwen2 or Qwen3.

    Where attention looks back over a window, ``max_length`` is the window: within it nothing is out of sight.

    Args:
        config: the content of ``config.json``, or its ``text_config``.
        where: for messages.
        image_token_id: what stands for an image, where it reads images.

    Raises:
        ModelError: the configuration is not one of these models, or has what their graphs do not.
    """
    try:
        found = msgspec.convert(_DEFAULTS.get(str(config.get("model_type")), {}) | config, _Config)
    except msgspec.ValidationError as error:
        raise ModelError(f"{where}: its config.json is not one of a decoder: {error}.") from error
    if found.model_type not in MODEL_TYPES:
        raise ModelError(f"{where}: no decoder {found.model_type!r} is built; {', '.join(MODEL_TYPES)} are.")
    if found.hidden_act != "silu":
        raise ModelError(f"{where}: a decoder with hidden_act {found.hidden_act!r} is not built; silu is.")
    _check_heads(found, where)
    window = found.sliding_window if found.use_sliding_window else None
    return DecoderSpec(
        shape="llama",
        layers=found.num_hidden_layers,
        hidden=found.hidden_size,
        heads=found.num_attention_heads,
        kv_heads=found.num_key_value_heads or found.num_attention_heads,
        head_size=found.head_dim or found.hidden_size // found.num_attention_heads,
        mlp=found.intermediate_size,
        vocabulary=found.vocab_size,
        max_length=min(found.max_position_embeddings, window or found.max_position_embeddings),
        epsilon=found.rms_norm_eps,
        rope=read_rope(config, where),
        untied=not found.tie_word_embeddings,
        biased=_biased(found),
        qk_norm=found.model_type == "qwen3",
        image_token_id=image_token_id,
    )


# Where transformers' own defaults differ from LlamaConfig's. What a newer version saves says all of them.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "mistral": {
        "intermediate_size": 14_336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "sliding_window": 4_096,
    },
    "qwen2": {
        "intermediate_size": 22_016,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32_768,
        "vocab_size": 151_936,
        "use_sliding_window": False,
    },
    "qwen3": {
        "intermediate_size": 22_016,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 32_768,
        "vocab_size": 151_936,
        "use_sliding_window": False,
    },
}


def _check_heads(config: _Config, where: str) -> None:
    heads, shared = config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads
    if config.head_dim is None:
        check_heads(heads, config.hidden_size, where)
    if heads % shared:
        raise ModelError(f"{where}: its config.json has {heads} heads and {shared} of keys and values: no equal parts.")


def _biased(config: _Config) -> tuple[Biased, ...]:
    """Llama and Qwen3 say so, Qwen2's queries, keys and values always have one, Mistral none."""
    if config.model_type == "qwen2":
        return ("qkv",)
    if config.model_type == "mistral":
        return ()
    attention: tuple[Biased, ...] = ("qkv", "o") if config.attention_bias else ()
    return (*attention, "gate_up", "down") if config.mlp_bias and config.model_type == "llama" else attention
