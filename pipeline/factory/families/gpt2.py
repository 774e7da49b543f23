"""GPT-2: layer norms, learned positions, biases everywhere; a decoder that continues texts."""

from __future__ import annotations

import msgspec

from pipeline.errors import ModelError
from pipeline.factory.decoders.file import write_fp32
from pipeline.factory.decoders.spec import DecoderSpec
from pipeline.factory.decoders.text import text_card
from pipeline.factory.decoders.weights import gpt2_weights
from pipeline.factory.family import Family, Source, Workbench
from pipeline.factory.sources.heads import check_heads
from pipeline.factory.sources.safetensors_file import Tensors, read_safetensors
from pipeline.models.card import ModelCard
from pipeline.numbers import Positive

__all__ = ["FAMILY"]

ARCHITECTURES = ("GPT2LMHeadModel",)
TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")


class _Config(msgspec.Struct, frozen=True):
    """What is read of ``config.json``, with the defaults of transformers' GPT2Config."""

    n_layer: Positive = 12
    n_embd: Positive = 768
    n_head: Positive = 12
    n_positions: Positive = 1_024
    vocab_size: Positive = 50_257
    n_inner: Positive | None = None
    layer_norm_epsilon: float = 1e-5
    activation_function: str = "gelu_new"
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True


def _build(source: Source, bench: Workbench) -> ModelCard:
    tensors = read_safetensors(source.folder)
    spec = _spec(source, tensors)
    # The first checkpoints were saved without their head, and their names have no "transformer." before them.
    body = "transformer." if "transformer.wte.weight" in tensors else ""
    bench.progress("writing the FP32 graph")
    variant = write_fp32(spec, gpt2_weights(tensors, spec, body), bench.folder)
    return text_card(source, bench, spec, variant)


def _spec(source: Source, tensors: Tensors) -> DecoderSpec:
    try:
        config = msgspec.convert(source.config, _Config)
    except msgspec.ValidationError as error:
        raise ModelError(f"{source.origin}: its config.json is not one of GPT-2: {error}.") from error
    if unlike := _unlike(config):
        raise ModelError(f"{source.origin}: a GPT-2 with {unlike} is not built.")
    check_heads(config.n_head, config.n_embd, source.origin)
    return DecoderSpec(
        shape="gpt2",
        layers=config.n_layer,
        hidden=config.n_embd,
        heads=config.n_head,
        kv_heads=config.n_head,
        head_size=config.n_embd // config.n_head,
        mlp=config.n_inner or 4 * config.n_embd,
        vocabulary=config.vocab_size,
        max_length=config.n_positions,
        epsilon=config.layer_norm_epsilon,
        untied=not config.tie_word_embeddings and "lm_head.weight" in tensors,
    )


def _unlike(config: _Config) -> str:
    """What sets the model apart from the graphs that are written; empty for nothing."""
    if config.activation_function not in TANH_GELU:
        return f"activation_function {config.activation_function!r}"
    if config.add_cross_attention:
        return "cross attention"
    if not config.scale_attn_weights or config.scale_attn_by_inverse_layer_idx:
        return "attention scaled in another way"
    return ""


FAMILY = Family(
    name="gpt2",
    tasks=("text-generation",),
    architectures=ARCHITECTURES,
    hints=("tokenizer",),
    build=_build,
)
