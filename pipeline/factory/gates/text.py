"""Compares the decoder of a variant with FP32's on the samples' texts, images in their places included."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.factory.gates.decoders import Logs, compare_decoders, predictions
from pipeline.factory.quantize.calibration import MAIN, Observation, cpu, graph_paths
from pipeline.factory.samples import Sample
from pipeline.models.card import TextSpec, VariantName
from pipeline.models.store import ServedModel
from pipeline.runtime.session import CacheLayout, DecoderSession, Floats, IntArray, TextCodec
from pipeline.settings import Settings
from pipeline.tasks.image_prompts import ImagePromptReader
from pipeline.tasks.prompts import PromptReader, load_chat_template
from schemas.errors import RecordError
from schemas.messages import TextInput

__all__ = ["Reading", "compare_text_models", "open_decoder", "read_rows"]

COMPARED_TOKENS = 64
ROWS = 16


class _Rows(Struct, frozen=True, kw_only=True):
    """Token ids [N, T] padded with 0, the tokens of each, and where the image begins (-1 without one)."""

    ids: IntArray
    lengths: IntArray
    image_at: tuple[int, ...]


class Reading(Struct, frozen=True, kw_only=True):
    """The samples as tokens, and what FP32 predicts of them, which every draft is compared with."""

    rows: _Rows
    full: Sequence[Logs]

    @staticmethod
    def of(model: ServedModel, samples: Sequence[Sample], settings: Settings, seen: Sequence[Observation]) -> Reading:
        """Run FP32 on what :func:`read_rows` takes of ``samples``.

        ``seen`` is, of an image-to-text model, what its vision graph made of the samples.

        Raises:
            ModelError: a sample cannot be read, or has less than two tokens with its answer.
        """
        rows = read_rows(model, samples, settings)
        decoder = open_decoder(model, "fp32", settings, len(rows.ids))
        made = predictions(decoder, rows.ids, rows.lengths, _image_rows(seen, rows))
        return Reading(rows=rows, full=_kept(made, model.folder))


def compare_text_models(
    model: ServedModel,
    variant: VariantName,
    reading: Reading,
    settings: Settings,
    seen: tuple[Sequence[Observation], Sequence[Observation]] = ((), ()),
) -> dict[str, float]:
    """The figures of :func:`compare_decoders` against FP32's ``reading``.

    ``seen`` is, of an image-to-text model, what each form's vision graph made of the samples: FP32's first.
    """
    rows = reading.rows
    decoder = open_decoder(model, variant, settings, max(2, len(rows.ids)))
    figures = compare_decoders(reading.full, decoder, rows.ids, rows.lengths, _image_rows(seen[1], rows))
    if seen[0]:
        figures["vision_mean_cosine"] = _mean_cosine(*seen)
    return figures


def open_decoder(model: ServedModel, variant: VariantName, settings: Settings, slots: int) -> DecoderSession:
    """A variant's decoder on the CPU, with empty caches for short texts."""
    spec = _text(model)
    layout = CacheLayout.of(spec, slots=slots, max_length=_capacity(model))
    return cpu(settings).open_decoder(graph_paths(model, variant)[MAIN], layout)


def read_rows(model: ServedModel, samples: Sequence[Sample], settings: Settings) -> _Rows:
    """The first 16 samples as tokens, the others are passed over: the prompt as it is served, and then the answer.

    Of each the first 64 tokens count, and those of an image besides; shorter ones are padded to the longest.

    Raises:
        ModelError: there is none, one cannot be read, or one has less than two tokens.
    """
    spec = _text(model)
    codec = cpu(settings).open_tokenizer(model.folder / spec.tokenizer)
    capacity = _capacity(model)
    template = load_chat_template(model.folder / spec.chat_template) if spec.chat_template else None
    reader = PromptReader(spec, codec, template, spec.max_length)
    read = [_read(model, codec, reader, sample, number) for number, sample in enumerate(samples[:ROWS], 1)]
    tokens = [ids[:capacity] for ids, _ in read]
    if not tokens or min(map(len, tokens)) < 2:
        raise ModelError(f"model {model.spec}: a sample must have at least two tokens, to see which follows which.")
    ids = np.zeros((len(tokens), max(map(len, tokens))), np.int64)
    for row, part in enumerate(tokens):
        ids[row, : len(part)] = part
    lengths = np.array([len(part) for part in tokens], np.int64)
    return _Rows(ids=ids, lengths=lengths, image_at=tuple(at for _, at in read))


def _read(
    model: ServedModel, codec: TextCodec, reader: PromptReader, sample: Sample, number: int
) -> tuple[list[int], int]:
    spec, vision = _text(model), model.card.vision
    answer = codec.encode(sample.answer) if sample.answer else []
    try:
        if vision is not None:
            prompt = ImagePromptReader(reader, spec, vision, spec.max_length).read(sample.text)
            return [*prompt.tokens, *answer], prompt.image_at
        words = TextInput(prompt=sample.text or None, messages=() if sample.text else sample.messages)
        return [*reader.read(words), *answer], -1
    except RecordError as error:
        raise ModelError(f"sample {number}: the model cannot read it: {error.message}") from error


def _image_rows(seen: Sequence[Observation], rows: _Rows) -> Floats | None:
    """What stands where: the image's rows in its tokens' places, zeros elsewhere; float32 [N, T, hidden]."""
    if not seen:
        return None
    made = [one.outputs["vision"]["image_embeds"][0] for one in seen[: len(rows.ids)]]
    placed = np.zeros((*rows.ids.shape, made[0].shape[-1]), np.float32)
    for row, (embeds, at) in enumerate(zip(made, rows.image_at, strict=True)):
        end = min(at + len(embeds), placed.shape[1])
        placed[row, at:end] = embeds[: end - at]
    return placed


def _kept(logs: Iterable[Logs], folder: Path) -> list[Logs]:
    """The same, on the disk of ``folder``, in a file without a name: with images they may be gigabytes."""
    with tempfile.TemporaryFile(dir=folder) as file:
        shapes = []
        for one in logs:
            file.write(one.tobytes())
            shapes.append(one.shape)
        file.flush()
        together = np.memmap(file, np.float32, "r", shape=(sum(rows for rows, _ in shapes), shapes[0][1]))
    return np.split(together, np.cumsum([rows for rows, _ in shapes])[:-1])


def _mean_cosine(full: Sequence[Observation], ours: Sequence[Observation]) -> float:
    one, other = (np.concatenate([it.outputs["vision"]["image_embeds"][0] for it in side]) for side in (full, ours))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return round(float(((one * other).sum(axis=1) / norms).mean()), 5)


def _capacity(model: ServedModel) -> int:
    image = model.card.vision.image_tokens if model.card.vision else 0
    return min(_text(model).max_length, COMPARED_TOKENS + image)


def _text(model: ServedModel) -> TextSpec:
    if model.card.text is None:
        raise ModelError(f"model {model.spec}: its card lacks a [text] table.")
    return model.card.text
