"""An ONNX file that somebody exported: an image classifier, a text classifier, or embeddings of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.family import IMAGE_HINTS, Family, Hint, Source, Workbench, check_hints
from pipeline.factory.foreign.check import read_graph
from pipeline.factory.foreign.image import adapt_classifier, is_image_input
from pipeline.factory.foreign.independence import check_rows
from pipeline.factory.foreign.text import IDS, MASK, NAMES, adapt_encoder, token_rows
from pipeline.factory.images.card import FP32
from pipeline.factory.sources.huggingface_folder import CONFIG
from pipeline.factory.sources.json_file import read_json_object
from pipeline.factory.sources.labels import LABELS, labels_of, write_labels
from pipeline.factory.sources.tokenizer import TOKENIZER, check_token_id, check_token_ids, copy_tokenizer
from pipeline.models.card import EncoderSpec, ImageSpec, ModelCard, Variant
from pipeline.models.cardfile import sha256_of
from pipeline.runtime.huggingface import open_tokenizer
from schemas.messages import Task

__all__ = ["FAMILY"]

MAX_LENGTH = 512
# Two, to see a length that is fixed somewhere inside the graph.
TRIAL_LENGTHS = (16, 24)
HINTS: dict[Task, tuple[Hint, ...]] = {
    "image-classification": ("labels", *IMAGE_HINTS),
    "text-classification": ("labels", "tokenizer"),
    "embeddings": ("tokenizer",),
}
TEXTS = ("The first of three texts.", "Another one", "And a third, which says the most of all of them.")


def _build(source: Source, bench: Workbench) -> ModelCard:
    model = read_graph(_path(source))
    task = source.task or _guess(model, source.origin)
    check_hints(source, HINTS[task], f"an ONNX file for {task}")
    image = _build_image(model, source, bench) if task == "image-classification" else None
    encoder = _build_text(model, source, bench, task) if image is None else None
    beside = [name for name in (LABELS, TOKENIZER) if (bench.folder / name).exists()]
    return ModelCard(
        name=bench.name,
        version=bench.version,
        task=task,
        description=f"The ONNX file {_path(source).name}.",
        license=source.license,
        source=source.origin,
        variants={"fp32": Variant(file=FP32, sha256=sha256_of(bench.folder / FP32), method="as exported")},
        image=image,
        encoder=encoder,
        files={name: sha256_of(bench.folder / name) for name in beside},
    )


def _guess(model: onnx.ModelProto, where: str) -> Task:
    """What the names of inputs and outputs say that it is for. Raises ModelError."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    outputs = {value.name for value in model.graph.output}
    if len(inputs) == 1 and is_image_input(inputs[0]):
        return "image-classification"
    found = [task for task, names in NAMES.items() if outputs & set(names)]
    if IDS in {value.name for value in inputs} and len(found) == 1:
        return found[0]
    raise ModelError(
        f"{where}: its inputs ({', '.join(value.name for value in inputs)}) and outputs ({', '.join(sorted(outputs))}) "
        f"do not tell what it is for. Say it: --task {' or '.join(FAMILY.tasks)}."
    )


def _build_image(model: onnx.ModelProto, source: Source, bench: Workbench) -> ImageSpec:
    image = adapt_classifier(model, source)
    onnx.save(model, bench.folder / FP32)
    shape = (len(TEXTS), image.height, image.width, image.channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    classes = check_rows(bench.folder / FP32, {"pixels": pixels}, "logits", source.origin)
    _write_labels(source, bench, classes)
    return replace(image, labels=LABELS)


def _build_text(model: onnx.ModelProto, source: Source, bench: Workbench, task: Task) -> EncoderSpec:
    tokenizer = copy_tokenizer(source, bench, _path(source).parent)
    spec = _encoder_spec(source)
    if (rows := token_rows(model)) is not None:
        check_token_ids(tokenizer, rows, source.origin)
        check_token_id(spec.pad_token_id, rows, "pad_token_id", str(_path(source).with_name(CONFIG)))
    adapt_encoder(model, source.origin, task)
    onnx.save(model, bench.folder / FP32)
    for length in TRIAL_LENGTHS:
        feeds = _token_feeds(bench.folder / TOKENIZER, min(length, spec.max_length))
        size = check_rows(bench.folder / FP32, feeds, NAMES[task][0], source.origin)
    if task == "embeddings":
        return replace(spec, dimensions=size)
    _write_labels(source, bench, size)
    return replace(spec, labels=LABELS)


def _token_feeds(tokenizer: Path, length: int) -> dict[str, Any]:
    codec = open_tokenizer(tokenizer)
    texts = [codec.encode_whole(text)[:length] for text in TEXTS]
    ids, mask = np.zeros((2, len(texts), length), np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    return {IDS: ids, MASK: mask}


def _encoder_spec(source: Source) -> EncoderSpec:
    """How long its texts may be and what pads them, as the files beside the graph say."""
    config = _beside(source, CONFIG)
    asked = [_beside(source, "tokenizer_config.json").get("model_max_length"), config.get("max_position_embeddings")]
    lengths = [length for length in asked if isinstance(length, int) and length > 0]
    padding = config.get("pad_token_id")
    return EncoderSpec(
        tokenizer=TOKENIZER,
        max_length=min([*lengths, MAX_LENGTH]),
        pad_token_id=padding if isinstance(padding, int) else 0,
    )


def _write_labels(source: Source, bench: Workbench, classes: int) -> None:
    """The classes' names, as the user or the ``config.json`` beside the graph says. Raises ModelError."""
    named = _beside(source, CONFIG).get("id2label")
    write_labels(labels_of(source, classes, named if isinstance(named, dict) else {}), bench.folder)


def _beside(source: Source, name: str) -> dict[str, Any]:
    return read_json_object(_path(source).parent / name, missing={})


def _path(source: Source) -> Path:
    if source.path is None:
        raise ModelError(f"{source.origin}: there is no file to build from.")
    return source.path


FAMILY = Family(
    name="onnx-file",
    tasks=tuple(HINTS),
    hints=("labels", "tokenizer", *IMAGE_HINTS),
    kind="onnx",
    build=_build,
)
