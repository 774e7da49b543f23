"""RoBERTa and XLM-RoBERTa: BERT's layers, positions counted from behind the padding token's id, another head."""

from __future__ import annotations

from pipeline.factory.encoders.spec import read_config
from pipeline.factory.encoders.text_card import TextModel, build_text_model, is_classifier
from pipeline.factory.encoders.weights import EncoderWeights, prefix_of
from pipeline.factory.families.bert import BertConfig, add_bert_body, bert_transformer
from pipeline.factory.family import Family, Source, Workbench
from pipeline.factory.sources.safetensors_file import read_safetensors
from pipeline.models.card import ModelCard
from pipeline.numbers import Positive

__all__ = ["FAMILY"]

ARCHITECTURES = (
    "RobertaForSequenceClassification",
    "RobertaModel",
    "XLMRobertaForSequenceClassification",
    "XLMRobertaModel",
)


class _Config(BertConfig, frozen=True):
    """With the defaults of transformers' RobertaConfig."""

    vocab_size: Positive = 50_265
    pad_token_id: int | None = 1


def _build(source: Source, bench: Workbench) -> ModelCard:
    tensors = read_safetensors(source.folder)
    config = read_config(source.config, _Config, source.origin)
    spec = bert_transformer(config, source.origin)
    weights = EncoderWeights(tensors, source.origin)
    add_bert_body(weights, config, spec, prefix_of(tensors, "roberta."))
    if is_classifier(source):
        weights.add_biased("pooler", "classifier.dense", (spec.hidden, spec.hidden))
        weights.add_biased("classifier", "classifier.out_proj")
    pad = 1 if config.pad_token_id is None else config.pad_token_id
    model = TextModel(
        transformer=spec,
        weights=weights,
        tensors=tensors,
        max_length=config.max_position_embeddings - pad - 1,
        pad_token_id=pad,
        first_position=pad + 1,
    )
    return build_text_model(source, bench, model)


FAMILY = Family(
    name="roberta",
    tasks=("text-classification", "embeddings"),
    architectures=ARCHITECTURES,
    hints=("labels", "tokenizer"),
    build=_build,
)
