"""Builds what BERT and its kin have in common: one graph, a tokenizer, labels or a pooling, and the card of it all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import onnx
from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.factory.encoders.file import weights_file, write_graph
from pipeline.factory.encoders.layers import Weights
from pipeline.factory.encoders.sentence import SentenceSpec, read_sentence_spec
from pipeline.factory.encoders.spec import TransformerSpec
from pipeline.factory.encoders.text import TextGraph, build_text_classifier, build_text_embedder
from pipeline.factory.family import Source, Workbench, check_hints
from pipeline.factory.sources.huggingface_folder import CONFIG
from pipeline.factory.sources.labels import LABELS, labels_of, write_labels
from pipeline.factory.sources.safetensors_file import Tensors
from pipeline.factory.sources.tokenizer import TOKENIZER, check_token_id, check_token_ids, copy_tokenizer
from pipeline.models.card import EncoderSpec, GraphFile, ModelCard, Variant
from pipeline.models.cardfile import sha256_of
from schemas.messages import Task

__all__ = ["METHOD", "TextModel", "build_text_model", "is_classifier", "main_variant"]

METHOD = "as trained, in float32"
CLASSIFIER = "ForSequenceClassification"


class TextModel(Struct, frozen=True, kw_only=True):
    """What a family has read of its source.

    Attributes:
        weights: by the names in :mod:`pipeline.factory.encoders.text`.
        tensors: of the checkpoint, for how large it is.
        max_length: tokens that there are positions for.
        first_position: the row of the positions that a text begins with.
        pooled: the activation behind the pooler, for classification.
    """

    transformer: TransformerSpec
    weights: Weights
    tensors: Tensors
    max_length: int
    pad_token_id: int
    first_position: int = 0
    pooled: Literal["Tanh", "Relu"] = "Tanh"


def is_classifier(source: Source) -> bool:
    """Whether the source is a classifier, and not a bare encoder.

    Raises:
        ModelError: the user wants of it what it was not trained for.
    """
    classifies = source.architecture.endswith(CLASSIFIER)
    task: Task = "text-classification" if classifies else "embeddings"
    if source.task not in (None, task):
        raise ModelError(f"{source.origin}: {source.architecture} does {task}, not {source.task}.")
    return classifies


def build_text_model(source: Source, bench: Workbench, model: TextModel) -> ModelCard:
    """Write ``fp32.onnx`` and what goes with it into the workbench. Returns the card; raises ModelError."""
    words = model.weights["words"].shape[0]
    check_token_ids(copy_tokenizer(source, bench, source.folder), words, source.origin)
    check_token_id(model.pad_token_id, words, "pad_token_id", str(source.folder / CONFIG))
    bench.progress("writing the FP32 graph")
    encoder = _classifier(source, bench, model) if is_classifier(source) else _embedder(source, model)
    names = [TOKENIZER] if encoder.labels is None else [TOKENIZER, encoder.labels]
    layers = model.transformer
    return ModelCard(
        name=bench.name,
        version=bench.version,
        task="embeddings" if encoder.labels is None else "text-classification",
        description=f"{source.architecture} of {layers.layers} layers of {layers.hidden}.",
        license=source.license,
        source=source.origin,
        variants={"fp32": _write(bench, model, encoder, source)},
        encoder=encoder,
        files={name: sha256_of(bench.folder / name) for name in names},
    )


def main_variant(files: Mapping[str, GraphFile], method: str = METHOD) -> Variant:
    """The variant whose main graph has the role ``""`` in ``files``."""
    parts = {role: file for role, file in files.items() if role}
    return Variant(file=files[""].file, sha256=files[""].sha256, parts=parts, method=method)


def _classifier(source: Source, bench: Workbench, model: TextModel) -> EncoderSpec:
    labels = labels_of(source, model.weights["classifier"].shape[0], source.config.get("id2label") or {})
    write_labels(labels, bench.folder)
    several = source.config.get("problem_type") == "multi_label_classification"
    return EncoderSpec(
        tokenizer=TOKENIZER,
        max_length=model.max_length,
        pad_token_id=model.pad_token_id,
        labels=LABELS,
        # A softmax over one class would always say 1; transformers' pipelines take the sigmoid there too.
        multi_label=several or len(labels) == 1,
    )


def _embedder(source: Source, model: TextModel) -> EncoderSpec:
    check_hints(source, ("tokenizer",), f"{source.architecture}, which embeds,")
    said = _sentence(source).max_length
    return EncoderSpec(
        tokenizer=TOKENIZER,
        max_length=model.max_length if said is None else min(said, model.max_length),
        pad_token_id=model.pad_token_id,
        dimensions=model.transformer.hidden,
    )


def _write(bench: Workbench, model: TextModel, encoder: EncoderSpec, source: Source) -> Variant:
    path = bench.folder / "fp32.onnx"
    data = weights_file(model.tensors, path)
    spec = TextGraph(transformer=model.transformer, first_position=model.first_position, data=data)

    def build() -> onnx.ModelProto:
        if encoder.labels is None:
            return build_text_embedder(spec, model.weights, _sentence(source).pooling)
        return build_text_classifier(spec, model.weights, model.pooled)

    return main_variant(write_graph(build, path, data, ""))


def _sentence(source: Source) -> SentenceSpec:
    return read_sentence_spec(source.folder)
