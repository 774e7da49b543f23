"""ViT: an image's patches through a transformer, classified by what its class token becomes."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from pipeline.factory.encoders.file import weights_file, write_graph
from pipeline.factory.encoders.image import ImageGraph, build_image_classifier
from pipeline.factory.encoders.spec import TransformerSpec, read_config, transformer_of
from pipeline.factory.encoders.text_card import main_variant
from pipeline.factory.encoders.weights import VIT_LAYER, EncoderWeights
from pipeline.factory.family import IMAGE_HINTS, Family, Source, Workbench
from pipeline.factory.images.card import FP32, image_card, pixel_input_of
from pipeline.factory.sources.labels import labels_of
from pipeline.factory.sources.safetensors_file import Tensors, read_safetensors
from pipeline.models.card import ModelCard
from pipeline.numbers import Positive

__all__ = ["FAMILY"]

ARCHITECTURES = ("ViTForImageClassification",)


class _Config(msgspec.Struct, frozen=True):
    """What is read of ``config.json``, with the defaults of transformers' ViTConfig."""

    hidden_size: Positive = 768
    num_hidden_layers: Positive = 12
    num_attention_heads: Positive = 12
    intermediate_size: Positive = 3_072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    qkv_bias: bool = True
    image_size: Positive | list[int] = 224


def _build(source: Source, bench: Workbench) -> ModelCard:
    tensors = read_safetensors(source.folder)
    config = read_config(source.config, _Config, source.origin)
    side = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
    pixels = pixel_input_of(source, default_size=side)
    weights = _weights(source, tensors, config)
    path = bench.folder / FP32
    data = weights_file(tensors, path)
    bench.progress("writing the FP32 graph")
    graph = ImageGraph(transformer=_transformer(source, config), pixels=pixels, data=data)
    variant = main_variant(write_graph(lambda: build_image_classifier(graph, weights), path, data, ""))
    labels = labels_of(source, weights["classifier"].shape[0], source.config.get("id2label") or {})
    described = f"{source.architecture} of {config.num_hidden_layers} layers of {config.hidden_size}."
    return image_card(source, bench, variant, pixels, labels, description=described)


def _transformer(source: Source, config: _Config) -> TransformerSpec:
    return replace(transformer_of(config, source.origin), norm_first=True, qkv_bias=config.qkv_bias)


def _weights(source: Source, tensors: Tensors, config: _Config) -> EncoderWeights:
    hidden = (config.hidden_size,)
    weights = EncoderWeights(tensors, source.origin)
    weights.add_biased("patches", "vit.embeddings.patch_embeddings.projection")
    weights.add("class_token", "vit.embeddings.cls_token", hidden)
    weights.add("positions", "vit.embeddings.position_embeddings", (-1, *hidden))
    weights.add_layers(_transformer(source, config), "vit.encoder.layer.", VIT_LAYER)
    weights.add_biased("final_norm", "vit.layernorm", hidden)
    weights.add_biased("classifier", "classifier")
    return weights


FAMILY = Family(
    name="vit",
    tasks=("image-classification",),
    architectures=ARCHITECTURES,
    hints=("labels", *IMAGE_HINTS),
    build=_build,
)
