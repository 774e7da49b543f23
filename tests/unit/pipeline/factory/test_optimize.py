"""From FP32 to admitted variants, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.decoders.file import write_fp32
from pipeline.factory.families.gpt2 import FAMILY
from pipeline.factory.gates import measure as optimize_measure
from pipeline.factory.gates.gate import Gate
from pipeline.factory.gates.gates import default_gate
from pipeline.factory.gates.speed import memory_megabytes
from pipeline.factory.optimize import optimize
from pipeline.factory.quantize.decoder_channels import decoder_feeds
from pipeline.factory.samples import Sample
from pipeline.factory.trial import open_variants
from pipeline.models.card import Variant, VariantName
from pipeline.models.cardfile import read_card, sha256_of, write_card
from pipeline.models.fit import estimate_need
from pipeline.models.store import ServedModel
from pipeline.runtime.session import SessionError
from pipeline.settings import BatchingSettings
from tests.unit.pipeline.factory.families import test_gpt2
from tests.unit.pipeline.factory.families.decoders import bench_of, save_model, source_of
from tests.unit.pipeline.factory.tiny_models import conv_classifier, mlp_classifier, pictures, settings_for


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process of its own for each variant's memory: that has a test of its own."""
    monkeypatch.setattr(optimize_measure, "memory_megabytes", lambda *_: None)


ALL = ("int8", "int8-weights", "int8-trt", "fp16")


def optimized(model: ServedModel, store: Path, *variants: str, gate: Gate | None = None) -> ServedModel:
    card = optimize(
        model,
        variants=variants,
        calibration=pictures(16),
        evaluation=pictures(40, seed=100),
        gate=gate,
        settings=settings_for(store),
    )
    return ServedModel(card=card, folder=model.folder)


def test_every_variant_of_a_convolutional_net_is_made_measured_and_installed(tmp_path: Path) -> None:
    model = optimized(conv_classifier(tmp_path), tmp_path, *ALL)
    assert read_card(model.folder) == model.card
    assert set(model.card.variants) == {"fp32", *ALL}
    assert not model.card.rejected
    for name, variant in model.card.variants.items():
        model.verify(name)
        assert variant.measured["sure_agreement"] >= 0.97
        assert variant.measured["ms_batch_8"] > 0
    assert model.card.variants["int8"].measured["max_difference_in_other_batches"] == 0
    assert model.card.variants["int8-trt"].providers == ("tensorrt",)
    assert not list(tmp_path.glob("conv/.*")), "nothing of the staging is left"


def test_a_variant_that_fails_its_gate_is_in_the_card_with_its_tries_and_leaves_no_file(tmp_path: Path) -> None:
    model = optimized(conv_classifier(tmp_path), tmp_path, "int8", gate=Gate(at_least={"top1_agreement": 1.1}))
    rejected = model.card.rejected["int8"]
    assert rejected.reason.startswith("top1_agreement is ")
    assert rejected.reason.endswith("at least 1.1 is asked")
    assert "in floats:" in rejected.method, "sensitive layers were left out before giving up"
    assert rejected.measured["try_1_top1_agreement"] > 0.9
    assert set(model.card.variants) == {"fp32"}
    assert not (model.folder / "int8.onnx").exists()


def test_figures_of_fp32_are_those_of_the_last_samples_and_few_of_them_are_told(tmp_path: Path) -> None:
    model, said = conv_classifier(tmp_path), list[str]()
    labelled = [replace(sample, answer="red") for sample in pictures(12, seed=100)]
    for evaluation in (labelled, pictures(3, seed=200)):
        said.clear()
        card = optimize(
            model, variants=["int8"], calibration=pictures(16), evaluation=evaluation, settings=settings_for(tmp_path),
            progress=said.append,
        )  # fmt: skip
    measured = card.variants["fp32"].measured
    assert "accuracy" not in measured, "that was of the samples with answers"
    assert "measuring on 3 samples, which says next to nothing: give 100 or more" in said
    ways = [step for step in said if step.startswith("calibrating, way ")]
    assert ways == [f"calibrating, way {number} of {len(ways)}" for number in range(1, len(ways) + 1)] != []


def test_leaving_sensitive_layers_in_floats_wins_what_the_plain_one_loses(tmp_path: Path) -> None:
    model = conv_classifier(tmp_path)
    plain = optimized(model, tmp_path, "int8").card.variants["int8"].measured["mean_kl"]
    gate = Gate(at_most={"mean_kl": plain * 0.9})
    variant = optimized(model, tmp_path, "int8", gate=gate).card.variants["int8"]
    assert variant.measured["try_1_mean_kl"] == plain > variant.measured["mean_kl"]
    assert "in floats:" in variant.method


def test_the_files_of_the_version_that_is_served_are_not_written_over(tmp_path: Path) -> None:
    model = mlp_classifier(tmp_path)
    kept = tmp_path / "kept"
    kept.mkdir()
    for file in model.folder.iterdir():
        os.link(file, kept / file.name)
    before = {file.name: sha256_of(file) for file in kept.iterdir()}
    optimized(model, tmp_path, "int8-weights")
    assert {file.name: sha256_of(file) for file in kept.iterdir()} == before


def optimized_gpt2(tmp_path: Path, *variants: VariantName) -> ServedModel:
    source, bench = source_of(save_model(test_gpt2.tiny(), tmp_path)), bench_of(tmp_path)
    card = FAMILY.build(source, bench)
    write_card(card, bench.folder)
    folder = tmp_path / "store" / card.name / card.version
    folder.parent.mkdir(parents=True)
    bench.folder.rename(folder)
    samples = [Sample(text=f"the text number {number}") for number in range(4)]
    made = optimize(
        ServedModel(card=card, folder=folder),
        variants=variants,
        calibration=samples,
        evaluation=samples,
        gate=Gate(at_least={"top1_agreement": 0.0}),
        settings=settings_for(tmp_path / "store"),
    )
    return ServedModel(card=made, folder=folder)


def test_a_decoder_is_calibrated_on_texts_of_ours_besides_narrow_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scales of a cache that are fixed on one kind of text ruin every other, and measure well on that kind."""
    seen = list[int]()

    def spy(ids: Any, lengths: Any, spec: Any) -> Any:
        seen.extend(ids.ravel().tolist())
        return decoder_feeds(ids, lengths, spec)

    monkeypatch.setattr("pipeline.factory.optimize.decoder_feeds", spy)
    optimized_gpt2(tmp_path, "int8")
    assert len(set(seen)) > len({token for number in range(4) for token in f"the text number {number}".encode()})


def test_a_decoder_whose_weights_are_beside_its_graph_is_optimized_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of more than 1.9 GB are; onnx reads no weights from a file that has a second name."""
    monkeypatch.setattr(write_fp32, "__defaults__", (0,))
    made = optimized_gpt2(tmp_path, "int8-weights")
    assert set(made.card.variants) == {"fp32", "int8-weights"}
    for variant in made.card.variants:
        made.verify(variant)


def test_the_card_says_what_the_cache_of_each_variant_holds_and_its_need_follows(tmp_path: Path) -> None:
    made = optimized_gpt2(tmp_path, "int8", "int8-weights", "fp16")
    kept = read_card(made.folder)
    assert {name: variant.cache for name, variant in kept.variants.items()} == {
        "fp32": None,
        "int8": "int8",
        "int8-weights": "float32",
        "fp16": "float16",
    }
    needs = [estimate_need(kept, made.folder, name, "cpu", BatchingSettings()).cache for name in kept.variants]
    assert [needs[0] / need for need in needs] == [1, 4, 1, 2]


def test_the_memory_of_a_session_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    model = mlp_classifier(tmp_path)
    measured = memory_megabytes(model.path("fp32"), {"pixels": np.zeros((1, 16, 16, 3), np.uint8)})
    assert measured is not None
    assert 0 < measured < 500
    assert memory_megabytes(tmp_path / "no.onnx") is None


def test_what_another_command_has_made_of_the_version_meanwhile_stays(tmp_path: Path) -> None:
    seen = mlp_classifier(tmp_path)
    optimized(seen, tmp_path, "int8-weights")
    assert set(optimized(seen, tmp_path, "fp16").card.variants) == {"fp32", "int8-weights", "fp16"}


def test_without_fp32_there_is_nothing_to_optimize(tmp_path: Path) -> None:
    model = mlp_classifier(tmp_path)
    alone = {"int8": Variant(file="fp32.onnx", sha256=model.card.variants["fp32"].sha256)}
    with pytest.raises(ModelError, match="no fp32 variant to make others from"):
        optimized(replace(model, card=replace(model.card, variants=alone)), tmp_path, "int8")


def test_fp32_that_is_gone_when_its_turn_has_come_is_missed_with_the_same_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mlp_classifier(tmp_path)
    alone = {"int8": Variant(file="fp32.onnx", sha256=model.card.variants["fp32"].sha256)}
    pulled = replace(model, card=replace(model.card, variants=alone))
    monkeypatch.setattr("pipeline.factory.optimize.read_model", lambda *_: pulled)
    with pytest.raises(ModelError, match="no fp32 variant to make others from"):
        optimized(model, tmp_path, "int8")


def test_a_graph_that_hangs_is_told_before_it_holds_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = mlp_classifier(tmp_path), []

    def answer(what: str, function: object, *args: object) -> None:
        asked.append((function, args[0], args[2]))
        raise ModelError(f"{what} did not answer within 300 s")

    monkeypatch.setattr("pipeline.factory.trial.answer", answer)
    with pytest.raises(ModelError, match="model mlp@1: its graph did not answer within 300 s"):
        optimized(model, tmp_path, "int8")
    assert asked == [(open_variants, model, ("fp32",))]


def test_a_graph_that_fails_on_a_sample_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp_classifier(tmp_path)

    def fail(*_: object) -> None:
        raise SessionError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : no")

    monkeypatch.setattr("pipeline.factory.optimize.Bench.of", fail)
    with pytest.raises(ModelError, match=r"model mlp@1: a graph fails on a sample.*ONNX Runtime says: \[ONNX.*: no$"):
        optimized(model, tmp_path, "int8")


def test_unknown_variants_and_unknown_figures_are_named(tmp_path: Path) -> None:
    model = mlp_classifier(tmp_path)
    with pytest.raises(ModelError, match="'int8-magic' cannot be made from FP32"):
        optimized(model, tmp_path, "int8-magic")
    assert read_card(model.folder) == model.card, "the store is as it was"


def test_a_misspelt_bound_is_refused_before_any_graph_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp_classifier(tmp_path)
    monkeypatch.setattr("pipeline.factory.optimize.Bench", None)  # nothing can be run
    with pytest.raises(ModelError, match=r"the gate names top_1_agreement, .*Is top1_agreement meant"):
        optimized(model, tmp_path, "fp16", gate=Gate(at_least={"top_1_agreement": 0.9}))


def test_a_gate_that_is_equal_to_the_tasks_own_is_still_the_users(tmp_path: Path) -> None:
    """Its bound on accuracy takes right answers, which these samples lack; the task's own is left out then."""
    model = mlp_classifier(tmp_path)
    with pytest.raises(ModelError, match=r"names accuracy_lost, .* evaluation samples with the right answer"):
        optimized(model, tmp_path, "fp16", gate=default_gate("image-classification"))


def test_what_was_not_measured_is_not_admitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.factory.optimize.figures_of", lambda *_: {})
    card = optimized(mlp_classifier(tmp_path), tmp_path, "int8-weights").card
    for name in ("sure_agreement", "mean_kl", "max_difference_in_other_batches"):
        assert f"{name} was not measured" in card.rejected["int8-weights"].reason
