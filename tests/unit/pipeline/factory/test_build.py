"""Building with a family of our own: what is in the store afterwards, whatever happened."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.build import build
from pipeline.factory.family import Family, Source, Workbench
from pipeline.factory.graph import GraphWriter
from pipeline.factory.versions import next_version
from pipeline.models.card import ImageSpec, ModelCard, Variant
from pipeline.models.cardfile import sha256_of
from pipeline.models.folders import list_folders
from pipeline.models.pointer import read_pointer
from pipeline.models.store import ServedModel, find_model
from pipeline.settings import ModelSettings, Settings

SOURCE = Source(kind="huggingface", origin="org/toy", architecture="Toy", license="mit")
Builder = Callable[[Source, Workbench], ModelCard]


def build_toy(source: Source, bench: Workbench, classes: int = 2) -> ModelCard:
    graph = GraphWriter("toy")
    numbers = graph.node("Cast", [graph.input("pixels", "uint8", ["N", 2, 2, 1])], attributes={"to": 1})
    flat = graph.node("Flatten", [numbers])
    weights = graph.constant("weights", np.ones((4, classes), np.float32))
    graph.node("MatMul", [flat, weights], outputs=["logits"])
    graph.output("logits", "float32", ["N", classes])
    onnx.save(graph.model("a toy"), bench.folder / "fp32.onnx")
    (bench.folder / "labels.txt").write_text("cat\ndog\n")
    (bench.scratch / "rubbish").write_text("not kept")
    return ModelCard(
        name=bench.name,
        version=bench.version,
        task="image-classification",
        description="A toy.",
        license=source.license,
        source=source.origin,
        variants={"fp32": Variant(file="fp32.onnx", sha256=sha256_of(bench.folder / "fp32.onnx"))},
        image=ImageSpec(height=2, width=2, channels=1, resize=2, labels="labels.txt"),
        files={"labels.txt": sha256_of(bench.folder / "labels.txt")},
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(models=ModelSettings(store=str(tmp_path)))


@pytest.fixture
def make(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ServedModel]:
    """Builds ``toy``, by ``build_toy`` or another function."""

    def make(by: Builder = build_toy, **options: Any) -> ServedModel:
        family = Family(name="toys", tasks=("image-classification",), build=by)
        monkeypatch.setattr("pipeline.factory.build.find_family", lambda _: family)
        return build(SOURCE, settings, **{"name": "toy", **options})

    return make


Make = Callable[..., ServedModel]


def contents(store: Path) -> set[str]:
    return {str(path.relative_to(store)) for path in store.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_the_first_version_is_1_and_serves_at_once(make: Make, tmp_path: Path, settings: Settings) -> None:
    said: list[str] = []
    assert make(progress=said.append).spec == "toy@1"
    assert contents(tmp_path) == {"toy/latest", "toy/1/fp32.onnx", "toy/1/labels.txt", "toy/1/model.toml"}
    assert find_model("toy", settings).spec == "toy@1"
    assert said == ["building with the family toys", "trying it out"]


def test_the_next_version_waits_to_be_promoted(make: Make, tmp_path: Path) -> None:
    make()
    assert make().spec == "toy@2"
    assert read_pointer(tmp_path / "toy") == "1"


def test_two_builds_at_once_get_versions_of_their_own(make: Make, settings: Settings) -> None:
    waits = threading.Event()
    second = threading.Thread(
        target=lambda: make(progress=lambda step: waits.set() if "waiting for another" in step else None), daemon=True
    )

    def slow(source: Source, bench: Workbench) -> ModelCard:
        if bench.version == "1":
            second.start()
            assert waits.wait(60)
        return build_toy(source, bench)

    assert make(slow).spec == "toy@1"
    second.join(timeout=60)
    assert {folder.name for folder in list_folders(settings) if folder.parent.name == "toy"} == {"1", "2"}
    assert find_model("toy", settings).spec == "toy@1"


@pytest.mark.parametrize(("there", "following"), [([], "1"), (["3", "10"], "11"), (["1.0.0"], "2"), (["beta"], "1")])
def test_the_next_version_follows_all_that_are_there(tmp_path: Path, there: list[str], following: str) -> None:
    for version in there:
        (tmp_path / "toy" / version).mkdir(parents=True)
        (tmp_path / "toy" / version / "model.toml").touch()
    assert next_version(tmp_path, "toy") == following


def test_the_next_version_follows_the_shipped_ones(tmp_path: Path) -> None:
    assert next_version(tmp_path, "digits-tiny") == "2"


def test_a_version_that_is_there_is_replaced_only_by_force(make: Make) -> None:
    folder = make(version="1.0").folder
    before = (folder / "model.toml").stat().st_ino
    with pytest.raises(ModelError, match=r"model toy@1\.0 is there already .*--force"):
        make(version="1.0")
    make(version="1.0", force=True)
    assert (folder / "model.toml").stat().st_ino != before


@pytest.mark.parametrize("options", [{"name": "../up"}, {"name": "Upper"}, {"version": "latest"}, {"version": "a/b"}])
def test_a_name_that_is_no_folder_of_the_store_is_refused(make: Make, tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(ModelError, match="lower case letters"):
        make(**options)
    assert contents(tmp_path) == set()


def test_a_family_that_fails_leaves_the_store_as_it_was(make: Make, tmp_path: Path) -> None:
    def fail(source: Source, bench: Workbench) -> ModelCard:
        (bench.folder / "half").write_text("done")
        raise ModelError("the weights are missing")

    with pytest.raises(ModelError, match="the weights are missing"):
        make(fail)
    assert contents(tmp_path) == set()


@pytest.mark.parametrize("fault", [ZeroDivisionError("division by zero"), KeyError("layers.0.qkv"), RecursionError()])
def test_files_that_contradict_themselves_are_told_by_name_and_leave_the_store_as_it_was(
    make: Make, tmp_path: Path, fault: Exception
) -> None:
    def stumble(source: Source, bench: Workbench) -> ModelCard:
        raise fault

    with pytest.raises(ModelError, match=f"contradict themselves.*toys: {type(fault).__name__}"):
        make(by=stumble)
    assert list(tmp_path.glob("toy/*")) == []


def test_a_graph_that_does_not_fit_its_labels_is_not_installed(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="2 labels"):
        make(lambda source, bench: build_toy(source, bench, classes=3))
    assert contents(tmp_path) == set()


def test_a_file_that_is_not_the_one_the_card_names_is_not_installed(make: Make, tmp_path: Path) -> None:
    def swap(source: Source, bench: Workbench) -> ModelCard:
        card = build_toy(source, bench)
        (bench.folder / "labels.txt").write_text("cat\ncow\n")
        return card

    with pytest.raises(ModelError, match="damaged"):
        make(swap)
    assert contents(tmp_path) == set()


def test_a_task_that_the_family_does_not_do_is_refused(tmp_path: Path, settings: Settings) -> None:
    graph = tmp_path / "a.onnx"
    graph.touch()
    with pytest.raises(ModelError, match=r"not object-detection\. Leave --task out"):
        build(Source(kind="onnx", origin="a.onnx", path=graph, task="object-detection"), settings, name="toy")


def test_a_graph_that_its_task_cannot_run_is_told_in_words_and_then_in_onnx_runtimes_own(
    make: Make, tmp_path: Path
) -> None:
    def narrow(source: Source, bench: Workbench) -> ModelCard:
        card = build_toy(source, bench)
        graph = onnx.load(bench.folder / "fp32.onnx")
        flat = next(node for node in graph.graph.node if node.op_type == "Flatten")
        flat.CopyFrom(onnx.helper.make_node("Reshape", [flat.input[0], "one"], flat.output))
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 4]), "one"))
        onnx.save(graph, bench.folder / "fp32.onnx")
        digest = sha256_of(bench.folder / "fp32.onnx")
        return replace(card, variants={"fp32": Variant(file="fp32.onnx", sha256=digest)})

    said = r"^model toy@1: its graph fp32 does not run with 1 record and with 3\. .*ONNX Runtime says: .*Reshape"
    with pytest.raises(ModelError, match=said):
        make(narrow)
    assert contents(tmp_path) == set()
