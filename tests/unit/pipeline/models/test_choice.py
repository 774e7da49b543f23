from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import ModelError
from pipeline.models.card import ModelCard, Variant
from pipeline.models.choice import Choice, choose
from pipeline.models.profile import Point, Profile


def card_of(*names: str, task: Any = "embeddings", **providers: tuple[Any, ...]) -> ModelCard:
    variants = {
        name: Variant(
            file=f"{name}.onnx", sha256="0" * 64, providers=providers.get(name.replace("-", "_"), ("cpu", "cuda"))
        )
        for name in names
    }
    return ModelCard(name="toy", version="1", task=task, description="", license="", source="", variants=variants)


def profile_of(*rows: tuple[str, int, int, float]) -> Profile:
    points = tuple(Point(variant=v, threads=t, batch_size=b, per_second=rate) for v, t, b, rate in rows)
    return Profile(model="toy@1", device="here", digests={}, points=points)


@pytest.mark.parametrize(
    ("provider", "task", "order"),
    [
        ("cpu", "embeddings", ["int8", "int8-weights", "fp32", "fp16"]),
        ("cuda", "embeddings", ["fp16", "int8-weights", "fp32", "int8"]),
        ("cuda", "text-generation", ["fp16", "int8", "int8-weights", "fp32"]),
    ],
)
def test_without_a_profile_the_provider_s_order_decides(provider: Any, task: Any, order: list[str]) -> None:
    for first in range(4):
        card = card_of(*reversed(order[first:]), task=task)
        assert choose(card, wanted="auto", provider=provider).variant == order[first]


def test_a_variant_made_otherwise_comes_right_after_the_plain_one() -> None:
    assert choose(card_of("fp32", "int8-new"), wanted="auto", provider="cpu").variant == "int8-new"
    assert choose(card_of("int8-new", "int8"), wanted="auto", provider="cpu").variant == "int8"


def test_only_variants_meant_for_the_provider_run_there() -> None:
    card = card_of("int8-trt", "fp32", int8_trt=("tensorrt",))
    assert choose(card, wanted="auto", provider="cpu").variant == "fp32"
    with pytest.raises(ModelError, match=r"no int8 variant for cuda, only int8-trt \(tensorrt\), fp32 \(cpu, cuda\)"):
        choose(card, wanted="int8", provider="cuda")
    with pytest.raises(ModelError, match=r"toy@1 has no variant for cpu, only int8-trt \(tensorrt\)"):
        choose(card_of("int8-trt", int8_trt=("tensorrt",)), wanted="auto", provider="cpu")


def test_a_wanted_precision_never_falls_back_even_if_the_profile_prefers_another() -> None:
    profile = profile_of(("fp32", 2, 1, 100.0), ("int8", 2, 1, 10.0))
    card = card_of("fp32", "int8")
    assert choose(card, wanted="int8", provider="cpu", profile=profile).variant == "int8"
    with pytest.raises(ModelError, match="no fp16 variant"):
        choose(card, wanted="fp16", provider="cpu", profile=profile)


def test_auto_takes_what_was_fastest_here_with_its_threads() -> None:
    profile = profile_of(("int8", 1, 4, 40.0), ("int8", 2, 4, 50.0), ("fp32", 1, 4, 90.0), ("fp32", 2, 4, 60.0))
    choice = choose(card_of("fp32", "int8"), wanted="auto", provider="cpu", profile=profile, max_batch_size=4)
    assert choice == Choice(variant="fp32", threads=1, max_batch_size=4)


def test_the_threads_of_the_settings_win_over_the_profile_s() -> None:
    profile = profile_of(("int8", 1, 4, 40.0), ("int8", 2, 4, 50.0), ("fp32", 1, 4, 90.0), ("fp32", 2, 4, 45.0))
    card = card_of("fp32", "int8")
    choice = choose(card, wanted="auto", provider="cpu", profile=profile, threads=2, max_batch_size=4)
    assert (choice.variant, choice.threads) == ("int8", 2)
    choice = choose(card, wanted="auto", provider="cpu", profile=profile, threads=7, max_batch_size=4)
    assert (choice.variant, choice.threads) == ("fp32", 7)


def test_a_batch_is_no_larger_than_where_throughput_stops_growing() -> None:
    rows = [("int8", 1, size, rate) for size, rate in ((1, 50.0), (2, 80.0), (4, 97.0), (8, 100.0), (16, 99.0))]
    card = card_of("int8")
    sizes = {
        bound: choose(
            card, wanted="auto", provider="cpu", profile=profile_of(*rows), max_batch_size=bound
        ).max_batch_size
        for bound in (1, 2, 4, 8, 64)
    }
    assert sizes == {1: 1, 2: 2, 4: 4, 8: 4, 64: 4}


def test_a_decoder_keeps_its_slots() -> None:
    profile = profile_of(("int8", 1, 1, 100.0), ("int8", 1, 16, 50.0))
    card = card_of("int8", task="text-generation")
    assert choose(card, wanted="auto", provider="cpu", profile=profile, max_batch_size=16).max_batch_size == 16


def test_throughput_that_still_grew_at_the_largest_measured_batch_bounds_nothing() -> None:
    profile = profile_of(("int8", 1, 1, 50.0), ("int8", 1, 8, 100.0))
    assert choose(card_of("int8"), wanted="auto", provider="cpu", profile=profile, max_batch_size=32) == Choice(
        variant="int8", threads=1, max_batch_size=32
    )


def test_what_was_measured_beyond_the_bound_does_not_choose_the_variant() -> None:
    profile = profile_of(("int8", 1, 1, 50.0), ("fp32", 1, 1, 10.0), ("int8", 1, 32, 60.0), ("fp32", 1, 32, 900.0))
    assert choose(card_of("int8", "fp32"), wanted="auto", provider="cpu", profile=profile).variant == "int8"
