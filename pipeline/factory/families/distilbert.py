"""DistilBERT: BERT's layers without token types, and a head of its own."""

from __future__ import annotations

import msgspec

from pipeline.factory.encoders.spec import TransformerSpec, activation_of, read_config
from pipeline.factory.encoders.text_card import TextModel, build_text_model, is_classifier
from pipeline.factory.encoders.weights import DISTILBERT_LAYER, EncoderWeights, prefix_of
from pipeline.factory.family import Family, Source, Workbench
from pipeline.factory.sources.safetensors_file import read_safetensors
from pipeline.models.card import ModelCard
from pipeline.numbers import Positive

__all__ = ["FAMILY"]

ARCHITECTURES = ("DistilBertForSequenceClassification", "DistilBertModel")
EPSILON = 1e-12  # transformers has it in its code, not in the config


class _Config(msgspec.Struct, frozen=True):
    """What is read of ``config.json``, with the defaults of transformers' DistilBertConfig."""

    vocab_size: Positive = 30_522
    dim: Positive = 768
    n_layers: Positive = 6
    n_heads: Positive = 12
    hidden_dim: Positive = 3_072
    activation: str = "gelu"
    max_position_embeddings: Positive = 512
    pad_token_id: int | None = 0


def _build(source: Source, bench: Workbench) -> ModelCard:
    tensors = read_safetensors(source.folder)
    config = read_config(source.config, _Config, source.origin)
    spec = TransformerSpec(
        layers=config.n_layers,
        hidden=config.dim,
        heads=config.n_heads,
        mlp=config.hidden_dim,
        epsilon=EPSILON,
        activation=activation_of(config.activation, source.origin),
    )
    body = prefix_of(tensors, "distilbert.")
    weights = EncoderWeights(tensors, source.origin)
    weights.add("words", f"{body}embeddings.word_embeddings.weight", (config.vocab_size, config.dim))
    places = (config.max_position_embeddings, config.dim)
    weights.add("positions", f"{body}embeddings.position_embeddings.weight", places)
    weights.add_biased("embed_norm", f"{body}embeddings.LayerNorm", (config.dim,))
    weights.add_layers(spec, f"{body}transformer.layer.", DISTILBERT_LAYER)
    if is_classifier(source):
        weights.add_biased("pooler", "pre_classifier", (config.dim, config.dim))
        weights.add_biased("classifier", "classifier")
    model = TextModel(
        transformer=spec,
        weights=weights,
        tensors=tensors,
        max_length=config.max_position_embeddings,
        pad_token_id=config.pad_token_id or 0,
        pooled="Relu",
    )
    return build_text_model(source, bench, model)


FAMILY = Family(
    name="distilbert",
    tasks=("text-classification", "embeddings"),
    architectures=ARCHITECTURES,
    hints=("labels", "tokenizer"),
    build=_build,
)
