"""BERT: classifies whole texts, or embeds sentences as sentence-transformers does."""

from __future__ import annotations

import msgspec

from pipeline.errors import ModelError
from pipeline.factory.encoders.spec import TransformerSpec, read_config, transformer_of
from pipeline.factory.encoders.text_card import TextModel, build_text_model, is_classifier
from pipeline.factory.encoders.weights import BERT_LAYER, EncoderWeights, prefix_of
from pipeline.factory.family import Family, Source, Workbench
from pipeline.factory.sources.safetensors_file import read_safetensors
from pipeline.models.card import ModelCard
from pipeline.numbers import Positive

__all__ = ["FAMILY", "BertConfig", "add_bert_body", "bert_transformer"]

ARCHITECTURES = ("BertForSequenceClassification", "BertModel")


class BertConfig(msgspec.Struct, frozen=True):
    """What is read of ``config.json``, with the defaults of transformers' BertConfig."""

    vocab_size: Positive = 30_522
    hidden_size: Positive = 768
    num_hidden_layers: Positive = 12
    num_attention_heads: Positive = 12
    intermediate_size: Positive = 3_072
    hidden_act: str = "gelu"
    max_position_embeddings: Positive = 512
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    position_embedding_type: str | None = "absolute"
    is_decoder: bool = False


def bert_transformer(config: BertConfig, where: str) -> TransformerSpec:
    """The layers that ``config`` describes. Raises ModelError for those that are not built."""
    if config.is_decoder or config.position_embedding_type not in (None, "absolute"):
        raise ModelError(f"{where}: only encoders with absolute positions are built.")
    return transformer_of(config, where)


def add_bert_body(weights: EncoderWeights, config: BertConfig, spec: TransformerSpec, body: str) -> None:
    """Name the embeddings and the layers; ``body`` is what all their names begin with. Raises ModelError."""
    embeddings = f"{body}embeddings"
    weights.add("words", f"{embeddings}.word_embeddings.weight", (config.vocab_size, config.hidden_size))
    places = (config.max_position_embeddings, config.hidden_size)
    weights.add("positions", f"{embeddings}.position_embeddings.weight", places)
    weights.add("types", f"{embeddings}.token_type_embeddings.weight")
    weights.add_biased("embed_norm", f"{embeddings}.LayerNorm", (config.hidden_size,))
    weights.add_layers(spec, f"{body}encoder.layer.", BERT_LAYER)


def _build(source: Source, bench: Workbench) -> ModelCard:
    tensors = read_safetensors(source.folder)
    config = read_config(source.config, BertConfig, source.origin)
    spec = bert_transformer(config, source.origin)
    body = prefix_of(tensors, "bert.")
    weights = EncoderWeights(tensors, source.origin)
    add_bert_body(weights, config, spec, body)
    if is_classifier(source):
        weights.add_biased("pooler", f"{body}pooler.dense", (spec.hidden, spec.hidden))
        weights.add_biased("classifier", "classifier")
    model = TextModel(
        transformer=spec,
        weights=weights,
        tensors=tensors,
        max_length=config.max_position_embeddings,
        pad_token_id=config.pad_token_id or 0,
    )
    return build_text_model(source, bench, model)


FAMILY = Family(
    name="bert",
    tasks=("text-classification", "embeddings"),
    architectures=ARCHITECTURES,
    hints=("labels", "tokenizer"),
    build=_build,
)
