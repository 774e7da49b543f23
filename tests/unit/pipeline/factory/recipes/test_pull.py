"""Pulling with a recipe of our own: what is in the store afterwards, whatever happened."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.errors import ModelError
from pipeline.factory.gates.gate import Gate
from pipeline.factory.recipes.pull import find_recipe, pull_recipe
from pipeline.factory.recipes.recipe import Kitchen, Recipe, check_gate, make_variant
from pipeline.models.card import ImageSpec, ModelCard
from pipeline.models.cardfile import sha256_of
from pipeline.models.store import PULLABLE, ServedModel


def build_toy(kitchen: Kitchen) -> ModelCard:
    (kitchen.folder / "int8.onnx").write_bytes(b"int8")
    (kitchen.folder / "fp32.onnx").write_bytes(b"fp32, larger")
    (kitchen.folder / "labels.txt").write_text("cat\n")
    (kitchen.scratch / "rubbish").write_text("not kept")
    return ModelCard(
        name="toy",
        version="1.0",
        task="image-classification",
        description="A toy.",
        license="Apache-2.0",
        source="made here",
        variants={
            "int8": make_variant(kitchen.folder, "int8", "by hand", {"top1_agreement": 1.0}),
            "fp32": make_variant(kitchen.folder, "fp32", "by hand", {}),
        },
        image=ImageSpec(height=8, width=8, channels=1, resize=8, labels="labels.txt"),
        files={"labels.txt": sha256_of(kitchen.folder / "labels.txt")},
    )


def recipe(build: Callable[[Kitchen], ModelCard] = build_toy, disk_bytes: int = 1) -> Recipe:
    return Recipe(name="toy", version="1.0", wheels=(), disk_bytes=disk_bytes, build=build)


def pull(store: Path, what: Recipe | None = None, *, keep_fp32: bool = False, force: bool = False) -> ServedModel:
    return pull_recipe(what or recipe(), store, keep_fp32=keep_fp32, force=force, progress=lambda _: None)


def contents(store: Path) -> set[str]:
    return {str(path.relative_to(store)) for path in store.rglob("*") if path.is_file() and path.suffix != ".lock"}


INT8_ONLY = {"toy/latest", "toy/1.0/int8.onnx", "toy/1.0/labels.txt", "toy/1.0/model.toml"}


def refuse_to_build(kitchen: Kitchen) -> ModelCard:
    pytest.fail("it was built although it is there")


def test_a_pulled_model_is_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    model = pull(tmp_path)
    model.verify("int8")
    assert contents(tmp_path) == INT8_ONLY
    assert list(model.card.variants) == ["int8"]


def test_fp32_is_kept_when_asked_for(tmp_path: Path) -> None:
    pull(tmp_path, keep_fp32=True).verify("fp32")
    assert contents(tmp_path) == INT8_ONLY | {"toy/1.0/fp32.onnx"}


def test_a_model_that_is_there_is_not_built_again(tmp_path: Path) -> None:
    first = pull(tmp_path)
    assert pull(tmp_path, recipe(refuse_to_build)) == first


def test_asking_for_fp32_later_builds_again(tmp_path: Path) -> None:
    pull(tmp_path)
    pull(tmp_path, keep_fp32=True)
    assert "toy/1.0/fp32.onnx" in contents(tmp_path)


def test_a_damaged_model_is_built_again(tmp_path: Path) -> None:
    model = pull(tmp_path)
    model.path("int8").write_bytes(b"bits rot")
    pull(tmp_path).verify("int8")


def test_force_replaces_what_is_there(tmp_path: Path) -> None:
    model = pull(tmp_path)
    (model.folder / "old").write_text("from before")
    pull(tmp_path, force=True)
    assert contents(tmp_path) == INT8_ONLY


class Failure(NamedTuple):
    raised: BaseException
    message: str


@pytest.mark.parametrize(
    "failure",
    [
        Failure(ModelError("gate failed"), "gate failed"),
        Failure(OSError(errno.ENOSPC, "No space left on device"), "is full: toy was not installed"),
        Failure(PermissionError(errno.EACCES, "Permission denied"), "toy was not installed: .*Permission denied"),
        Failure(KeyboardInterrupt("ctrl-c"), "ctrl-c"),
    ],
    ids=["gate", "full disk", "permission", "ctrl-c"],
)
def test_whatever_goes_wrong_leaves_the_store_as_it_was(tmp_path: Path, failure: Failure) -> None:
    def build(kitchen: Kitchen) -> ModelCard:
        build_toy(kitchen)
        raise failure.raised

    pull(tmp_path)
    kind = type(failure.raised) if isinstance(failure.raised, KeyboardInterrupt) else ModelError
    with pytest.raises(kind, match=failure.message):
        pull(tmp_path, recipe(build), force=True)
    assert contents(tmp_path) == INT8_ONLY
    pull(tmp_path, recipe(refuse_to_build)).verify("int8")


def test_what_a_killed_pull_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".toy@staging-killed"
    left.mkdir()
    (left / "half.onnx").write_bytes(b"half")
    pull(tmp_path)
    assert contents(tmp_path) == INT8_ONLY


def test_two_pulls_at_once_build_once(tmp_path: Path) -> None:
    built, both = [], threading.Barrier(2)

    def build(kitchen: Kitchen) -> ModelCard:
        built.append(kitchen.folder)
        return build_toy(kitchen)

    def run() -> None:
        both.wait()
        pull(tmp_path, recipe(build)).verify("int8")

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert contents(tmp_path) == INT8_ONLY


def test_too_little_room_is_said_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ModelError, match=r"has 5 MB free, and building toy takes 900 MB"):
        pull(tmp_path, recipe(refuse_to_build, disk_bytes=900_000_000))


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match=r"model store .*/file/store cannot be written: .*models\.store"):
        pull(tmp_path / "file" / "store")


def test_every_pullable_name_has_a_recipe() -> None:
    assert [find_recipe(name).name for name in PULLABLE] == list(PULLABLE)
    with pytest.raises(ModelError, match="There are recipes for smollm2-135m"):
        find_recipe("gpt-5")


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_a_gate_names_the_figures_that_are_out(value: float) -> None:
    gate = Gate(at_least={"top1": 0.9, "sure": 0.1}, at_most={"kl": 0.01})
    alike = {"max_difference_in_other_batches": 0.0}
    check_gate({"top1": 0.9, "sure": 1.0, "kl": 0.01, **alike}, gate, "toy")
    with pytest.raises(
        ModelError, match=r"top1 is (0\.5|nan), at least 0\.9 is asked; kl is (0\.5|nan), at most 0\.01 is asked\. It"
    ):
        check_gate({"top1": value, "sure": 1.0, "kl": value, **alike}, gate, "toy")


def test_int8_is_refused_unless_a_difference_of_0_in_other_batches_was_measured() -> None:
    with pytest.raises(ModelError, match=r"toy: INT8 .*max_difference_in_other_batches was not measured"):
        check_gate({}, Gate(), "toy")
    with pytest.raises(ModelError, match="not batch-invariant: a result moves by 1e-06"):
        check_gate({"max_difference_in_other_batches": 1e-6}, Gate(), "toy")
