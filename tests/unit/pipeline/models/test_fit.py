from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.models.card import GraphFile, Variant
from pipeline.models.fit import MIB, check_fit, estimate_need
from pipeline.runtime.fakes import fake_classifier, fake_generator
from pipeline.settings import BatchingSettings

BATCHING = BatchingSettings(max_slots=15, max_length=1_024)

FILES = {"text": "text.onnx", "data": "data"}


def test_weights_count_with_every_part(tmp_path: Path) -> None:
    model = fake_classifier(tmp_path)
    (tmp_path / "int8.onnx").write_bytes(bytes(3 * MIB))
    (tmp_path / "int8.text.onnx").write_bytes(bytes(1 * MIB))
    (tmp_path / "int8.data").write_bytes(bytes(2 * MIB))
    parts = {role: GraphFile(file=f"int8.{file}", sha256="0" * 64) for role, file in FILES.items()}
    variant = Variant(file="int8.onnx", sha256="0" * 64, parts=parts)
    card = replace(model.card, variants={"int8": variant, "fp32": variant})
    need = estimate_need(card, tmp_path, "int8", "cpu", BATCHING)
    assert (need.graphs, need.cache, need.total) == (6 * MIB, 0, (10 + 3 + 64) * MIB), "packed: 2.5 times, beside: 1.5"
    assert estimate_need(card, tmp_path, "fp32", "cpu", BATCHING).total == (6 + 3 + 64) * MIB
    assert estimate_need(card, tmp_path, "int8", "cuda", BATCHING).total == (6 + 512) * MIB


def test_the_cache_is_keys_and_values_of_every_slot_and_half_as_much_in_fp16_a_quarter_in_int8(tmp_path: Path) -> None:
    model = fake_generator(tmp_path, max_length=512)
    assert model.card.text is not None
    text = replace(model.card.text, layers=8, kv_heads=4, head_size=64)
    variant = Variant(file="x.onnx", sha256="0" * 64)
    variants = {"int8": variant, "fp16": variant, "int8-weights": replace(variant, cache="int8")}
    card = replace(model.card, text=text, variants=variants)
    expected = 2 * 8 * (15 + 1) * 4 * 512 * 64 * 4
    assert estimate_need(card, tmp_path, "int8", "cpu", BATCHING).cache == expected
    assert estimate_need(card, tmp_path, "fp16", "cpu", BATCHING).cache == expected // 2
    assert estimate_need(card, tmp_path, "int8-weights", "cpu", BATCHING).cache == expected // 4


def test_a_model_that_does_not_fit_is_refused_with_numbers_and_what_to_do(tmp_path: Path) -> None:
    model = fake_generator(tmp_path)
    assert model.card.text is not None
    text = replace(model.card.text, layers=32, kv_heads=8, head_size=128, max_length=1_024)
    variant = Variant(file="x.onnx", sha256="0" * 64)
    card = replace(model.card, text=text, variants={"fp32": variant, "int8": variant})
    (tmp_path / "x.onnx").write_bytes(bytes(MIB))
    with pytest.raises(ModelError) as refused:
        check_fit(card, tmp_path, "fp32", "cpu", BATCHING, 1_000 * MIB)
    assert str(refused.value) == (
        "model fake-text@1 fp32 does not fit the cpu: it needs about 4,162 MiB (1 MiB of graphs, 4,096 MiB for the KV "
        "cache of 15 slots, and room to load and run), and 1,000 MiB are free. Lower batching.max_slots or "
        "batching.max_length, or set runtime.precision for another variant: int8."
    )


def test_a_model_that_fits_or_whose_room_nobody_knows_is_let_through(tmp_path: Path) -> None:
    model = fake_classifier(tmp_path)
    check_fit(model.card, tmp_path, "int8", "cpu", BATCHING, 64 * MIB)
    check_fit(model.card, tmp_path, "int8", "cpu", BATCHING, None)
    with pytest.raises(ModelError, match=r"63 MiB are free\. Stop what else uses the memory\."):
        check_fit(model.card, tmp_path, "int8", "cpu", BATCHING, 63 * MIB)
