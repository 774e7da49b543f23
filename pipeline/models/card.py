"""The card of a model: one ``model.toml`` in each version's folder says all that a worker must know to serve it.

Layout of a version's folder::

    <store>/<name>/latest                       the promoted version's name, one line
    <store>/<name>/<version>/model.toml
    <store>/<name>/<version>/int8.onnx          the graphs of a variant, named in the card
    <store>/<name>/<version>/tokenizer.json     text models (Hugging Face ``tokenizers`` format)
    <store>/<name>/<version>/chat_template.jinja  chat models
    <store>/<name>/<version>/labels.txt         classifiers and detectors, one label a line

Contract of the graphs (``N`` is the batch and ``S`` the padded length, free in every graph):

``image-classification``
    in ``pixels`` uint8 [N, height, width, channels], as decoded: scaling and normalisation live in the graph;
    out ``logits`` float32 [N, classes].

``object-detection``
    in ``pixels`` as above;
    out ``scores`` float32 [N, candidates, classes], each in [0, 1], "no object" left out;
    out ``boxes`` float32 [N, candidates, 4]: xmin, ymin, xmax, ymax as shares of the width and the height.

``text-classification``
    in ``input_ids`` and ``attention_mask`` int64 [N, S], padded on the right, 1 for a token and 0 for padding;
    out ``logits`` float32 [N, classes].

``embeddings`` of texts
    in as above; out ``embedding`` float32 [N, dimensions] of unit length, pooling included. A mean over the tokens is
    a MatMul by the mask: ONNX Runtime's ReduceSum and ReduceMean over the middle axis add up those of one text in
    another order than those of two, so its result would depend on its company.

``zero-shot-image-classification``, which does ``embeddings`` of texts and of images too
    the image's graph: in ``pixels``, out ``embedding`` float32 [N, dimensions] of unit length;
    the graph ``text``: as ``embeddings`` of texts, in the same space.

``text-generation``
    in ``input_ids`` int64 [N, S];
    in ``seqlens_k`` int32 [N]: tokens in the cache after this step, minus 1 (ONNX Runtime's GroupQueryAttention);
    in ``total_sequence_length`` int32 scalar: the largest of ``seqlens_k`` plus 1;
    in ``logits_at`` int64 [N]: the position in ``S`` whose logits are wanted;
    in ``past_key_<i>``, ``past_value_<i>`` [N, kv_heads, max_length, head_size], bound to the same buffers as the
    outputs ``present_key_<i>``, ``present_value_<i>`` for each layer ``i``: float32, float16, or int8 with the scales
    among the graph's constants, whose bytes are copied from slot to slot as they are;
    out ``logits`` float32 [N, vocabulary].
    ``S`` above 1 with a non-empty cache requires ``N`` = 1 (chunked prefill of one slot); decoding has ``S`` = 1.

``image-to-text``
    the decoder's graph: as ``text-generation``, and in ``image_embeds`` float32 [N, S, hidden], which stand where
    ``input_ids`` are the image's token; the graph ``vision``: in ``pixels``, out ``image_embeds`` float32
    [N, image_tokens, hidden].
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal, cast

from msgspec import Meta, Struct

from pipeline.numbers import Positive
from schemas.messages import Task

__all__ = [
    "NAME",
    "VARIANTS",
    "CacheType",
    "DetectionSpec",
    "EncoderSpec",
    "GraphFile",
    "ImageSpec",
    "ModelCard",
    "Precision",
    "Provider",
    "Rejected",
    "TextSpec",
    "Variant",
    "VariantName",
    "VisionSpec",
    "ZeroShotSpec",
    "cache_of",
    "precision_of",
]

CacheType = Literal["float32", "float16", "int8"]
Precision = Literal["int8", "fp16", "fp32"]
Provider = Literal["cpu", "cuda", "tensorrt"]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
VariantName = Annotated[str, Meta(pattern="^(int8|fp16|fp32)(-[a-z0-9]{1,16})?$")]
"""Its precision, and how it was made where there are several: ``int8`` (static, for CPUs), ``int8-weights``,
``int8-trt`` (static and symmetric, for TensorRT), ``fp16``, ``fp32``."""
VARIANTS: tuple[VariantName, ...] = ("int8", "int8-weights", "int8-trt", "fp16")
"""Those that ``millrace models optimize`` makes from FP32."""
NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
"""What a model and a version may be called, as a regular expression of the whole: each is a folder of the store."""


class GraphFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One more file of a variant and its digest."""

    file: str
    sha256: Sha256


class Variant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One form of a model version, admitted by measurement.

    Attributes:
        file: the ONNX file, relative to the card.
        sha256: its digest; it is checked before the file is loaded.
        parts: the other graphs of a model that has several, by role: ``text`` (zero-shot), ``vision`` (image-to-text).
            A graph whose weights are in a file beside it names that too, as ``<role>-data`` or ``data``.
        providers: where it is meant to run.
        method: how the weights were made, such as ``static QDQ U8S8 per channel``.
        cache: what the KV cache of a decoder holds; ``None`` is float16 in ``fp16`` and float32 otherwise.
        measured: figures measured against FP32 when the variant was admitted, such as ``top1_agreement``.
    """

    file: str
    sha256: Sha256
    parts: dict[str, GraphFile] = {}
    providers: tuple[Provider, ...] = ("cpu", "cuda")
    method: str = ""
    cache: CacheType | None = None
    measured: dict[str, float] = {}

    @property
    def digests(self) -> dict[str, str]:
        """The SHA-256 of each of its files, by the file's name."""
        return {self.file: self.sha256} | {part.file: part.sha256 for part in self.parts.values()}

    @property
    def weight_files(self) -> frozenset[str]:
        """Those of its files that are no graphs, but hold a graph's weights."""
        roles = (role for role in self.parts if role == "data" or role.endswith("-data"))
        return frozenset(self.parts[role].file for role in roles)

    @property
    def digest(self) -> str:
        """Names everything that computes: the file's SHA-256, or one over those of all its parts. In every outcome."""
        if not self.parts:
            return self.sha256
        parts = [f"{role}={part.sha256}" for role, part in sorted(self.parts.items())]
        return hashlib.sha256("\n".join([self.sha256, *parts]).encode()).hexdigest()


class Rejected(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A variant that was made and not admitted: how, why, and what was measured."""

    method: str
    reason: str
    measured: dict[str, float] = {}


class TextSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a text generation graph needs.

    Attributes:
        max_length: tokens one KV cache slot can hold, prompt and answer together.
        eos_token_ids: tokens that end an answer.
        bos_token_id: put before a plain prompt, if set.
        chat_template: a Jinja file rendering ``messages`` (and ``add_generation_prompt``); ``None`` for none.
        special: strings such as ``bos_token`` and ``eos_token`` that the chat template may use.
    """

    tokenizer: str
    layers: Positive
    kv_heads: Positive
    head_size: Positive
    vocabulary: Positive
    max_length: Annotated[int, Meta(ge=2)]
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None = None
    chat_template: str | None = None
    special: dict[str, str] = {}


class EncoderSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a graph that reads whole texts needs (classification, embeddings, the text side of zero-shot).

    Attributes:
        tokenizer: its post-processor adds the special tokens, such as ``[CLS]`` and ``[SEP]``.
        max_length: tokens a text may have, special ones included.
        pad_token_id: fills up the shorter texts of a batch.
        labels: a file with one label a line, for classification.
        multi_label: whether labels exclude each other (softmax) or not (sigmoid).
        dimensions: of the embedding.
    """

    tokenizer: str
    max_length: Positive
    pad_token_id: Annotated[int, Meta(ge=0)] = 0
    labels: str | None = None
    multi_label: bool = False
    dimensions: Positive | None = None


class ImageSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an image becomes the ``pixels`` input; the channels are RGB (3) or luminance (1), uint8.

    With ``fit`` = ``crop`` the shorter side is resized to ``resize`` and the centre ``height`` x ``width`` is cut out;
    with ``stretch`` the whole image is resized to ``height`` x ``width``, whatever its proportions.
    """

    height: Positive
    width: Positive
    channels: Literal[1, 3]
    resize: Positive
    labels: str | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "box"] = "bicubic"
    fit: Literal["crop", "stretch"] = "crop"


class DetectionSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How candidates become objects.

    Attributes:
        threshold: the least score, where the request names none.
        nms_iou: of two boxes of one class that overlap by more than this, the likelier stays; ``None`` for families
            whose candidates do not repeat each other, such as DETR's.
    """

    threshold: Annotated[float, Meta(ge=0, le=1)] = 0.5
    nms_iou: Annotated[float, Meta(ge=0, le=1)] | None = None


class ZeroShotSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How similarities become scores.

    Attributes:
        logit_scale: the factor on cosines before the softmax.
        template: makes a text of a label, where the request names none; ``{}`` is the label.
    """

    logit_scale: Annotated[float, Meta(gt=0)]
    template: str = "a photo of a {}"


class VisionSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an image enters a decoder: ``image_tokens`` rows [hidden] in the places of ``image_token_id``.

    ``image_token`` is that token's text: a prompt holds it once, and it stands for all rows.
    """

    image_token: str
    image_token_id: Annotated[int, Meta(ge=0)]
    image_tokens: Positive
    hidden: Positive


class ModelCard(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model version as its ``model.toml`` describes it.

    Attributes:
        rejected: variants that were made and failed their gate.
        files: the SHA-256 of every file beside the graphs that serving reads: tokenizer, chat template, labels.
        measured: figures that are not about one variant.
    """

    name: Annotated[str, Meta(pattern=f"^{NAME}$")]
    version: Annotated[str, Meta(pattern=f"^{NAME}$")]
    task: Task
    description: str
    license: str
    source: str
    variants: dict[VariantName, Variant]
    rejected: dict[VariantName, Rejected] = {}
    text: TextSpec | None = None
    encoder: EncoderSpec | None = None
    image: ImageSpec | None = None
    detection: DetectionSpec | None = None
    zero_shot: ZeroShotSpec | None = None
    vision: VisionSpec | None = None
    files: dict[str, Sha256] = {}
    measured: dict[str, float] = {}

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What it can be asked for, its own task first."""
        return (self.task, "embeddings") if self.task == "zero-shot-image-classification" else (self.task,)

    def variant_path(self, folder: Path, variant: VariantName) -> Path:
        """The path of a variant's main graph in the version's ``folder``. Raises KeyError for one it lacks."""
        return folder / self.variants[variant].file


def cache_of(card: ModelCard, variant: VariantName) -> CacheType:
    """What the KV cache of a decoder's variant holds. Raises KeyError for one that the card lacks."""
    return card.variants[variant].cache or ("float16" if precision_of(variant) == "fp16" else "float32")


def precision_of(variant: VariantName) -> Precision:
    """The precision that a variant's name begins with."""
    return cast(Precision, variant.partition("-")[0])
