"""CLIP: an image encoder and a text encoder of one space, for zero-shot classification and joint embeddings."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace
from tokenizers import Tokenizer

from pipeline.errors import ModelError
from pipeline.factory.encoders.file import weights_file, write_graph
from pipeline.factory.encoders.image import ImageGraph, build_image_tower
from pipeline.factory.encoders.spec import TransformerSpec, read_config, transformer_of
from pipeline.factory.encoders.text import CLIP_UNKNOWN_END, TextGraph, build_text_tower
from pipeline.factory.encoders.text_card import main_variant
from pipeline.factory.encoders.weights import CLIP_LAYER, EncoderWeights
from pipeline.factory.family import IMAGE_HINTS, Family, Source, Workbench
from pipeline.factory.images.card import FP32, with_hints
from pipeline.factory.images.spec import PixelInput, read_pixel_input
from pipeline.factory.sources.huggingface_folder import CONFIG
from pipeline.factory.sources.safetensors_file import Tensors, read_safetensors
from pipeline.factory.sources.tokenizer import TOKENIZER, check_token_id, check_token_ids, copy_tokenizer
from pipeline.models.card import EncoderSpec, GraphFile, ModelCard, ZeroShotSpec
from pipeline.models.cardfile import sha256_of
from pipeline.numbers import Positive

__all__ = ["FAMILY"]

ARCHITECTURES = ("CLIPModel",)
FP32_TEXT = "fp32.text.onnx"


class _Tower(msgspec.Struct, frozen=True, kw_only=True):
    num_hidden_layers: Positive = 12
    num_attention_heads: Positive
    hidden_size: Positive
    intermediate_size: Positive
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


class _Text(_Tower, frozen=True, kw_only=True):
    """With the defaults of transformers' CLIPTextConfig."""

    num_attention_heads: Positive = 8
    hidden_size: Positive = 512
    intermediate_size: Positive = 2_048
    vocab_size: Positive = 49_408
    max_position_embeddings: Positive = 77
    eos_token_id: int = 49_407
    pad_token_id: int | None = 1


class _Vision(_Tower, frozen=True, kw_only=True):
    """With the defaults of transformers' CLIPVisionConfig."""

    num_attention_heads: Positive = 12
    hidden_size: Positive = 768
    intermediate_size: Positive = 3_072
    image_size: Positive = 224
    num_channels: Positive = 3


class _Config(msgspec.Struct, frozen=True):
    text_config: _Text = _Text()
    vision_config: _Vision = _Vision()


def _build(source: Source, bench: Workbench) -> ModelCard:
    tensors = read_safetensors(source.folder)
    config = read_config(source.config, _Config, source.origin)
    tokenizer = copy_tokenizer(source, bench, source.folder)
    text = config.text_config
    check_token_ids(tokenizer, text.vocab_size, source.origin)
    for key, token in (("eos_token_id", text.eos_token_id), ("pad_token_id", text.pad_token_id or 0)):
        check_token_id(token, text.vocab_size, f"text_config.{key}", str(source.folder / CONFIG))
    _check_end(tokenizer, config.text_config, source.origin)
    pixels = _pixels(source, config.vision_config)
    bench.progress("writing the FP32 graphs")
    files = _write_image(source, bench, tensors, config.vision_config, pixels)
    files |= _write_text(source, bench, tensors, config.text_config)
    return ModelCard(
        name=bench.name,
        version=bench.version,
        task="zero-shot-image-classification",
        description=f"{source.architecture} for images of {pixels.image.height} x {pixels.image.width}.",
        license=source.license,
        source=source.origin,
        variants={"fp32": main_variant(files)},
        image=pixels.image,
        encoder=EncoderSpec(
            tokenizer=TOKENIZER,
            max_length=config.text_config.max_position_embeddings,
            pad_token_id=config.text_config.pad_token_id or 0,
            dimensions=tensors["text_projection.weight"].shape[0],
        ),
        zero_shot=ZeroShotSpec(logit_scale=float(np.exp(tensors["logit_scale"]))),
        files={TOKENIZER: sha256_of(bench.folder / TOKENIZER)},
    )


def _pixels(source: Source, config: _Vision) -> PixelInput:
    read = read_pixel_input(source.folder, channels=config.num_channels, default_size=config.image_size)
    return with_hints(read, source.hints)


def _write_image(
    source: Source, bench: Workbench, tensors: Tensors, config: _Vision, pixels: PixelInput
) -> dict[str, GraphFile]:
    spec = _transformer(source, config)
    weights = _tower(source, tensors, spec, "vision_model.", "post_layernorm", "visual_projection")
    hidden = (spec.hidden,)
    weights.add("patches", "vision_model.embeddings.patch_embedding.weight")
    weights.add("class_token", "vision_model.embeddings.class_embedding", hidden)
    weights.add("positions", "vision_model.embeddings.position_embedding.weight", (-1, *hidden))
    weights.add_biased("embed_norm", "vision_model.pre_layrnorm", hidden)  # transformers' own spelling
    path = bench.folder / FP32
    graph = ImageGraph(transformer=spec, pixels=pixels, data=weights_file(tensors, path))
    return write_graph(lambda: build_image_tower(graph, weights), path, graph.data, "")


def _write_text(source: Source, bench: Workbench, tensors: Tensors, config: _Text) -> dict[str, GraphFile]:
    spec = replace(_transformer(source, config), causal=True)
    weights = _tower(source, tensors, spec, "text_model.", "final_layer_norm", "text_projection")
    embeddings = "text_model.embeddings"
    weights.add("words", f"{embeddings}.token_embedding.weight", (config.vocab_size, spec.hidden))
    places = (config.max_position_embeddings, spec.hidden)
    weights.add("positions", f"{embeddings}.position_embedding.weight", places)
    path = bench.folder / FP32_TEXT
    graph = TextGraph(transformer=spec, data=weights_file(tensors, path))
    return write_graph(lambda: build_text_tower(graph, weights, config.eos_token_id), path, graph.data, "text")


def _tower(
    source: Source, tensors: Tensors, spec: TransformerSpec, body: str, norm: str, projection: str
) -> EncoderWeights:
    """What both have: the layers, the last norm and the projection."""
    weights = EncoderWeights(tensors, source.origin)
    weights.add_layers(spec, f"{body}encoder.layers.", CLIP_LAYER)
    weights.add_biased("final_norm", f"{body}{norm}", (spec.hidden,))
    weights.add("projection", f"{projection}.weight")
    return weights


def _transformer(source: Source, config: _Tower) -> TransformerSpec:
    return replace(transformer_of(config, source.origin), norm_first=True)


def _check_end(tokenizer: Tokenizer, config: _Text, where: str) -> None:
    """A text is what its end token has become: one without that token would be embedded as its first word."""
    ids: list[Any] = tokenizer.encode("a").ids
    if config.eos_token_id != CLIP_UNKNOWN_END and config.eos_token_id not in ids:
        raise ModelError(
            f"{where}: its tokenizer does not end a text with the token {config.eos_token_id}, eos_token_id of its "
            "config.json. Write the tokenizer again with its post-processor."
        )


FAMILY = Family(
    name="clip",
    tasks=("zero-shot-image-classification",),
    architectures=ARCHITECTURES,
    hints=("tokenizer", *IMAGE_HINTS),
    build=_build,
)
