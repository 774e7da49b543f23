"""Tiny models through the whole optimizer: every variant of each task is made, loaded and measured by its task."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.factory.families import find_family
from pipeline.factory.gates import measure as optimize_measure
from pipeline.factory.gates.gate import Gate
from pipeline.factory.optimize import optimize_folder
from pipeline.factory.samples import Sample
from pipeline.models.card import VARIANTS, ModelCard
from pipeline.models.cardfile import check_variant
from pipeline.models.store import ServedModel
from tests.unit.pipeline.factory.families import test_clip, test_gpt2, test_llava
from tests.unit.pipeline.factory.families.decoders import bench_of, save_model, source_of
from tests.unit.pipeline.factory.families.encoders import save_encoder
from tests.unit.pipeline.factory.tiny_models import settings_for

ANY = Gate(at_least={}, at_most={})
Made = tuple[ModelCard, Path, list[Sample]]


def texts(count: int) -> list[Sample]:
    rng = np.random.default_rng(count)
    return [
        Sample(text=" ".join(f"w{number}" for number in rng.integers(0, 50, rng.integers(3, 20)))) for _ in range(count)
    ]


def images(count: int, **more: Any) -> list[Sample]:
    rng = np.random.default_rng(count)
    found = []
    for _ in range(count):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((32, 32)).save(file, "PNG")
        found.append(Sample(image=file.getvalue(), **more))
    return found


def built(folder: Path) -> tuple[ModelCard, Path]:
    source, bench = source_of(folder), bench_of(folder)
    return find_family(source).build(source, bench), bench.folder


def clip(folder: Path) -> Made:
    save_encoder(test_clip.clip(), folder)
    return (*built(folder), texts(8) + images(8))


def gpt2(folder: Path) -> Made:
    save_model(test_gpt2.tiny(), folder)
    return (*built(folder), [Sample(text=f"{number} and so on, and so on") for number in range(8)])


def llava(folder: Path) -> Made:
    card = test_llava.build(folder, test_llava.tiny())
    return card, folder / "built", images(8, text="what is it?", answer="a cat")


def yolos(folder: Path) -> Made:
    import torch
    from transformers import YolosConfig, YolosForObjectDetection

    from tests.unit.pipeline.factory.families.vision import save_model as save_vision

    torch.manual_seed(3)
    config = YolosConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=[32, 32],
        num_detection_tokens=6,
        id2label={0: "one", 1: "two"},
        initializer_range=0.3,
    )
    save_vision(YolosForObjectDetection(config).eval(), folder)
    return (*built(folder), images(8))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer ways to take ranges, and no process of its own for each variant's memory."""
    monkeypatch.setattr(optimize_measure, "memory_megabytes", lambda *_: None)
    monkeypatch.setattr("pipeline.factory.quantize.variants.RANGINGS", ("minmax",))
    monkeypatch.setattr("pipeline.factory.quantize.variants.SMOOTHINGS", (0.65,))


@pytest.mark.parametrize(
    ("make", "figure", "least"),
    [
        (clip, "text_mean_cosine", 0.9),
        (gpt2, "perplexity_ratio", 0.95),
        (llava, "vision_mean_cosine", 0.99),
        (yolos, "matched_f1", 0.5),
    ],
    ids=["clip", "gpt2", "llava", "yolos"],
)
def test_every_variant_is_made_and_measured(
    tmp_path: Path, make: Callable[[Path], Made], figure: str, least: float
) -> None:
    card, folder, samples = make(tmp_path)
    variants = [name for name in VARIANTS if name != "int8-trt" or card.text is None]
    finished = optimize_folder(
        ServedModel(card=card, folder=folder),
        variants=variants,
        calibration=samples[::2],
        evaluation=samples,
        gate=ANY,
        settings=settings_for(tmp_path),
    )
    assert not finished.rejected
    for name in variants:
        check_variant(finished, folder, name)
        variant = finished.variants[name]
        assert variant.measured[figure] >= least
        assert variant.measured["ms_batch_8"] > 0
        assert set(variant.parts) == set(card.variants["fp32"].parts)
    assert finished.variants["int8"].measured["max_difference_in_other_batches"] == 0
