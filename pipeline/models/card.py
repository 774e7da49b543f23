"""The card of a model: one ``model.toml`` in each version's folder says all that a worker must know to serve it.

Layout of a version's folder::

    <store>/<name>/<version>/model.toml
    <store>/<name>/<version>/int8.onnx          one file a variant, named in the card
    <store>/<name>/<version>/tokenizer.json     text models (Hugging Face ``tokenizers`` format)
    <store>/<name>/<version>/chat_template.jinja  chat models
    <store>/<name>/<version>/labels.txt         classifiers, one label a line

Contract of the graphs (``N`` is the batch, free in every graph):

``image-classification``
    in ``pixels`` uint8 [N, height, width, channels], as decoded: scaling and normalisation live in the graph;
    out ``logits`` float32 [N, classes].

``text-generation``
    in ``input_ids`` int64 [N, S];
    in ``seqlens_k`` int32 [N]: tokens in the cache after this step, minus 1 (ONNX Runtime's GroupQueryAttention);
    in ``total_sequence_length`` int32 scalar: the largest of ``seqlens_k`` plus 1;
    in ``logits_at`` int64 [N]: the position in ``S`` whose logits are wanted;
    in ``past_key_<i>``, ``past_value_<i>`` [N, kv_heads, max_length, head_size], bound to the same buffers as the
    outputs ``present_key_<i>``, ``present_value_<i>`` for each layer ``i``;
    out ``logits`` float32 [N, vocabulary].
    ``S`` above 1 with a non-empty cache requires ``N`` = 1 (chunked prefill of one slot); decoding has ``S`` = 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from schemas.messages import Task

__all__ = ["ImageSpec", "ModelCard", "Precision", "TextSpec", "Variant"]

Precision = Literal["int8", "fp16", "fp32"]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Variant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One precision of a model version.

    Attributes:
        file: the ONNX file, relative to the card.
        sha256: its digest; it is checked before the file is loaded and travels in every outcome.
        method: how the weights were made, such as ``static QDQ U8S8 per channel``.
        measured: figures measured against FP32 when the variant was admitted, such as ``top1_agreement``.
    """

    file: str
    sha256: Sha256
    method: str = ""
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
    layers: Annotated[int, Meta(ge=1)]
    kv_heads: Annotated[int, Meta(ge=1)]
    head_size: Annotated[int, Meta(ge=1)]
    vocabulary: Annotated[int, Meta(ge=1)]
    max_length: Annotated[int, Meta(ge=2)]
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None = None
    chat_template: str | None = None
    special: dict[str, str] = {}


class ImageSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an image becomes the ``pixels`` input.

    The shorter side is resized to ``resize``, the centre ``height`` x ``width`` is cut out, and the channels are RGB
    (3) or luminance (1), uint8. ``pad`` resizes the longer side and pads instead of cropping.
    """

    height: Annotated[int, Meta(ge=1)]
    width: Annotated[int, Meta(ge=1)]
    channels: Literal[1, 3]
    resize: Annotated[int, Meta(ge=1)]
    labels: str
    interpolation: Literal["nearest", "bilinear", "bicubic", "box"] = "bicubic"


class ModelCard(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model version as its ``model.toml`` describes it."""

    name: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9._-]{0,63}$")]
    version: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9._-]{0,63}$")]
    task: Task
    description: str
    license: str
    source: str
    variants: dict[Precision, Variant]
    text: TextSpec | None = None
    image: ImageSpec | None = None
    files: dict[str, Sha256] = {}
    measured: dict[str, float] = {}

    def variant_path(self, folder: Path, precision: Precision) -> Path:
        """The path of a variant's ONNX file in the version's ``folder``. Raises KeyError for a precision it lacks."""
        return folder / self.variants[precision].file
