"""Where a LLaVA checkpoint keeps its parts, and what its configuration says of them."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.decoders.llama import llama_spec
from pipeline.factory.decoders.spec import DecoderSpec, Weights
from pipeline.factory.decoders.vision import VisionGraph
from pipeline.factory.decoders.weights import llama_weights
from pipeline.factory.encoders.image import ImageGraph
from pipeline.factory.encoders.spec import activation_of, read_config, transformer_of
from pipeline.factory.encoders.weights import CLIP_LAYER, EncoderWeights
from pipeline.factory.images.spec import PixelInput
from pipeline.factory.sources.safetensors_file import Tensors
from pipeline.numbers import Positive

__all__ = ["LlavaConfig", "decoder_spec", "decoder_weights", "read_llava", "vision_graph", "vision_weights"]

TOWERS: dict[str, dict[str, Any]] = {
    # The defaults of transformers' CLIPVisionConfig and SiglipVisionConfig.
    "clip_vision_model": {"patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip_vision_model": {"patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
}


class Tower(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of ``vision_config``."""

    model_type: str
    patch_size: Positive
    hidden_act: str
    layer_norm_eps: float
    hidden_size: Positive = 768
    intermediate_size: Positive = 3_072
    num_hidden_layers: Positive = 12
    num_attention_heads: Positive = 12
    image_size: Positive = 224
    num_channels: Positive = 3


class LlavaConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of ``config.json``, with the defaults of transformers' LlavaConfig.

    Attributes:
        image_token_id: what stands for an image; older files call it ``image_token_index``.
    """

    text_config: dict[str, Any]
    vision_config: Tower
    image_token_id: int
    projector_hidden_act: str = "gelu"
    vision_feature_layer: int | tuple[int, ...] = -2
    vision_feature_select_strategy: str = "default"
    tie_word_embeddings: bool = False


def read_llava(config: dict[str, Any], where: str) -> LlavaConfig:
    """The configuration, older spellings included. Raises ModelError."""
    tower = config.get("vision_config") or {}
    kind = tower.get("model_type", "clip_vision_model")
    if kind not in TOWERS:
        raise ModelError(f"{where}: a vision tower {kind!r} is not built; {', '.join(TOWERS)} are.")
    content = {"image_token_id": config.get("image_token_index", 32_000)} | config
    return read_config(content | {"vision_config": {"model_type": kind} | TOWERS[kind] | tower}, LlavaConfig, where)


def decoder_spec(config: LlavaConfig, tensors: Tensors, where: str) -> DecoderSpec:
    """The decoder's numbers. Raises ModelError."""
    tied = config.tie_word_embeddings or config.text_config.get("tie_word_embeddings", False)
    tied = tied or not any(name.endswith("lm_head.weight") for name in tensors)
    text = config.text_config | {"tie_word_embeddings": tied}
    spec = llama_spec(text, where, image_token_id=config.image_token_id)
    if config.image_token_id >= spec.vocabulary:
        raise ModelError(
            f"{where}: the image's token is {config.image_token_id}, and the vocabulary has {spec.vocabulary} tokens."
        )
    return spec


def decoder_weights(tensors: Tensors, spec: DecoderSpec, where: str) -> Weights:
    """The decoder's weights. Raises ModelError for one that is not there."""
    body = _before("embed_tokens.weight", tensors, where)
    head = f"{_before('lm_head.weight', tensors, where)}lm_head.weight" if spec.untied else ""
    return llama_weights(tensors, spec, body, head)


def vision_graph(config: LlavaConfig, pixels: PixelInput, where: str) -> VisionGraph:
    """The vision graph's numbers, with the layers that are used. Raises ModelError."""
    tower = config.vision_config
    if config.vision_feature_select_strategy not in ("default", "full"):
        raise ModelError(
            f"{where}: vision_feature_select_strategy {config.vision_feature_select_strategy!r} is not known; default "
            "and full are."
        )
    transformer = replace(transformer_of(tower, where), layers=_layers(config, where), norm_first=True)
    rows = (tower.image_size // tower.patch_size) ** 2 + (tower.model_type == "clip_vision_model")
    # transformers takes off the first row of SigLIP too, which is a patch.
    skipped = int(config.vision_feature_select_strategy == "default")
    return VisionGraph(
        encoder=ImageGraph(transformer=transformer, pixels=pixels),
        skipped=skipped,
        rows=rows - skipped,
        activation=activation_of(config.projector_hidden_act, where),
    )


def vision_weights(tensors: Tensors, config: LlavaConfig, graph: VisionGraph, where: str) -> EncoderWeights:
    """The vision graph's weights. Raises ModelError for one that is not there."""
    weights, tower = EncoderWeights(tensors, where), config.vision_config
    body = _before("embeddings.patch_embedding.weight", tensors, where)
    hidden, side = tower.hidden_size, tower.patch_size
    patches = (hidden, tower.num_channels, side, side)
    if tower.model_type == "clip_vision_model":
        weights.add("patches", f"{body}embeddings.patch_embedding.weight", patches)
        weights.add("class_token", f"{body}embeddings.class_embedding", (hidden,))
        weights.add_biased("embed_norm", f"{body}pre_layrnorm", (hidden,))
    else:
        weights.add_biased("patches", f"{body}embeddings.patch_embedding", patches)
    weights.add("positions", f"{body}embeddings.position_embedding.weight")
    weights.add_layers(graph.encoder.transformer, f"{body}encoder.layers.", CLIP_LAYER)
    projector = _before("linear_1.weight", tensors, where)
    for ours, theirs in (("project_in", "linear_1"), ("project_out", "linear_2")):
        weights.add(ours, f"{projector}{theirs}.weight")
        if (bias := f"{projector}{theirs}.bias") in tensors:
            weights.add(f"{ours}.bias", bias)
    return weights


def _layers(config: LlavaConfig, where: str) -> int:
    """How many layers of the tower are run. transformers counts their outputs; 0 is what enters the first."""
    chosen, whole = config.vision_feature_layer, config.vision_config.num_hidden_layers
    at = chosen if isinstance(chosen, int) else chosen[0] if len(chosen) == 1 else 0
    count = at if at > 0 else whole + 1 + at
    if at == 0 or not 1 <= count <= whole:
        raise ModelError(f"{where}: vision_feature_layer {chosen} is not built; one layer's output of {whole} is.")
    return count


def _before(end: str, tensors: Tensors, where: str) -> str:
    """What stands before ``end`` in a tensor's name: it has changed from one version of transformers to another."""
    found = next((name for name in tensors if name.endswith(end)), None)
    if found is None:
        raise ModelError(f"{where}: the checkpoint has no tensor ...{end}. Is its config.json that of another model?")
    return found.removesuffix(end)
