"""Weights and neurons taken out of FP32 graphs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import numpy_helper

from pipeline.errors import ModelError
from pipeline.factory.gates import measure as optimize_measure
from pipeline.factory.pruning.prune import prune
from pipeline.factory.pruning.structured import remove_neurons
from pipeline.models.cardfile import read_card, write_card
from pipeline.models.install import locked
from pipeline.models.store import ServedModel
from pipeline.runtime.onnx import open_session
from pipeline.settings import RuntimeSettings
from tests.unit.pipeline.factory.tiny_models import conv_classifier, mlp_classifier, pictures, settings_for


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimize_measure, "memory_megabytes", lambda *_: None)


def pruned(
    model: ServedModel,
    store: Path,
    kind: str,
    amount: float,
    version: str | None = "2",
    progress: Callable[[str], None] = lambda _: None,
) -> ServedModel:
    return prune(
        model,
        kind="magnitude" if kind == "magnitude" else "structured",
        amount=amount,
        version=version,
        evaluation=pictures(12),
        settings=settings_for(store),
        progress=progress,
    )


def weights(path: Path) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}


def test_magnitude_pruning_zeroes_the_smallest_weights_of_all_layers_and_says_that_it_is_no_faster(
    tmp_path: Path,
) -> None:
    model = mlp_classifier(tmp_path)
    version = pruned(model, tmp_path, "magnitude", 0.5)
    assert read_card(version.folder) == version.card
    variant = version.card.variants["fp32"]
    version.verify("fp32")
    assert variant.measured["sparsity"] == pytest.approx(0.5, abs=0.001)
    assert "no faster" in variant.method
    assert {"before_ms_batch_8", "ms_batch_8", "top1_agreement"} <= variant.measured.keys()
    before, after = weights(model.path("fp32")), weights(version.path("fp32"))
    gone = np.concatenate([np.abs(before[name][after[name] == 0]).ravel() for name in ("first", "second")])
    left = np.concatenate([np.abs(after[name][after[name] != 0]).ravel() for name in ("first", "second")])
    assert gone.max() <= left.min(), "one bound for all layers"


def test_structured_pruning_makes_the_matrices_smaller_and_keeps_the_largest_neurons(tmp_path: Path) -> None:
    model = mlp_classifier(tmp_path, hidden=32)
    version = pruned(model, tmp_path, "structured", 0.5)
    after = weights(version.path("fp32"))
    assert after["first"].shape == (768, 16)
    assert after["bias"].shape == (16,)
    assert after["second"].shape == (16, 3)
    before = weights(model.path("fp32"))
    kept = np.sort(np.argsort(-np.linalg.norm(before["first"], axis=0))[:16])
    np.testing.assert_array_equal(after["first"], before["first"][:, kept])
    np.testing.assert_array_equal(after["second"], before["second"][kept])
    assert version.card.variants["fp32"].measured["sparsity"] == pytest.approx(0.5)


def test_channels_that_do_nothing_can_go_without_a_trace(tmp_path: Path) -> None:
    """Inner channels of convolutions, through ReLU6 and depthwise ones."""
    model = onnx.load(conv_classifier(tmp_path).path("fp32"))
    for block, kept in (("_blocks.1", 8), ("_blocks.2", 16)):
        dead = [f"{block}._expand_conv", f"{block}._expand_conv.bias", f"{block}._depthwise_conv.bias"]
        for item in (item for item in model.graph.initializer if item.name in dead):
            values = numpy_helper.to_array(item).copy()
            values[kept:] = 0
            item.CopyFrom(numpy_helper.from_array(values, item.name))
    onnx.save(model, tmp_path / "full.onnx")
    onnx.save(remove_neurons(model, 0.5), tmp_path / "less.onnx")
    less = weights(tmp_path / "less.onnx")
    assert less["_blocks.1._depthwise_conv"].shape == (8, 1, 3, 3)
    assert less["_blocks.2._project_conv"].shape == (12, 16, 1, 1)
    pixels = {"pixels": np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)}
    runtime = RuntimeSettings(provider="cpu", threads=1)
    full, ours = (open_session(tmp_path / f"{name}.onnx", runtime).run(pixels)["logits"] for name in ("full", "less"))
    np.testing.assert_allclose(ours, full, atol=1e-5)


def test_amounts_and_versions_that_cannot_be_are_refused(tmp_path: Path) -> None:
    model = mlp_classifier(tmp_path)
    with pytest.raises(ModelError, match=r"the amount is 1\.5, it must be between 0 and 1"):
        pruned(model, tmp_path, "magnitude", 1.5)
    pruned(model, tmp_path, "magnitude", 0.2)
    with pytest.raises(ModelError, match="mlp@2 is there already"):
        pruned(model, tmp_path, "magnitude", 0.2)
    with pytest.raises(ModelError, match="lower case letters"):
        pruned(model, tmp_path, "magnitude", 0.2, version="../up")
    card = replace(model.card, variants={"int8": model.card.variants["fp32"]})
    with pytest.raises(ModelError, match=r"no fp32 variant to prune\..*or build it again"):
        pruned(replace(model, card=card), tmp_path, "magnitude", 0.2)


@pytest.mark.parametrize("kind", ["magnitude", "structured"])
def test_pruning_without_torch_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match=r"needs torch .*pip install '\.\[models\]' in its folder"):
        pruned(mlp_classifier(tmp_path), tmp_path, kind, 0.2)
    assert {path.name for path in (tmp_path / "mlp").iterdir()} == {"1"}


def test_two_at_once_get_versions_of_their_own(tmp_path: Path) -> None:
    model, waits, made = mlp_classifier(tmp_path), threading.Event(), list[ServedModel]()

    def progress(step: str) -> None:
        if "waiting for another command" in step:
            waits.set()

    def run() -> None:
        made.append(pruned(model, tmp_path, "magnitude", 0.2, version=None, progress=progress))

    second = threading.Thread(target=run, daemon=True)
    with locked(tmp_path, model.card.name, pytest.fail):
        second.start()
        assert waits.wait(60)
        first = tmp_path / model.card.name / "2"
        first.mkdir()
        (first / "model.toml").touch()
        write_card(replace(model.card, description="Built again."), model.folder)
    second.join(timeout=60)
    assert [version.spec for version in made] == ["mlp@3"]
    assert made[0].card.description == "Built again.", "what is there when its turn comes is pruned"


def test_fp32_that_is_gone_when_its_turn_has_come_is_missed_with_the_same_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mlp_classifier(tmp_path)
    alone = {"int8": model.card.variants["fp32"]}
    pulled = replace(model, card=replace(model.card, variants=alone))
    monkeypatch.setattr("pipeline.factory.pruning.prune.read_model", lambda *_: pulled)
    with pytest.raises(ModelError, match="no fp32 variant to prune"):
        pruned(model, tmp_path, "magnitude", 0.5)


def test_a_graph_that_hangs_is_told_before_it_holds_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(what: str, *_: object) -> None:
        raise ModelError(f"{what} did not answer within 300 s")

    monkeypatch.setattr("pipeline.factory.trial.answer", answer)
    with pytest.raises(ModelError, match="model mlp@1: its graph did not answer within 300 s"):
        pruned(mlp_classifier(tmp_path), tmp_path, "magnitude", 0.5)
