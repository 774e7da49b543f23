from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import numpy_helper

from pipeline.errors import ModelError
from pipeline.models.card import GraphFile, ImageSpec, ModelCard, TextSpec, Variant
from pipeline.models.cardfile import read_card, sha256_of, write_card
from pipeline.models.folders import list_folders
from pipeline.models.pointer import read_pointer, write_pointer
from pipeline.models.store import SHIPPED, ServedModel, find_model, read_folder
from pipeline.runtime.fakes import (
    fake_classifier,
    fake_embedder,
    fake_generator,
    fake_reader,
    fake_text_classifier,
    fake_zero_shot,
)
from pipeline.settings import ModelSettings, RuntimeSettings, Settings
from tests.model_store import put_version


def put(store: Path, name: str = "toy", version: str = "1.0", *, graph: bytes = b"graph") -> Path:
    folder = store / name / version
    folder.mkdir(parents=True)
    (folder / "int8.onnx").write_bytes(graph)
    (folder / "labels.txt").write_text("cat\ndog\n")
    write_card(
        ModelCard(
            name=name,
            version=version,
            task="image-classification",
            description="A toy.",
            license="Apache-2.0",
            source="made here",
            variants={"int8": Variant(file="int8.onnx", sha256=hashlib.sha256(b"graph").hexdigest())},
            image=ImageSpec(height=8, width=8, channels=1, resize=8, labels="labels.txt"),
            files={"labels.txt": hashlib.sha256(b"cat\ndog\n").hexdigest()},
            measured={"top1": 0.5},
        ),
        folder,
    )
    return folder


@pytest.fixture
def shipped(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty shelf in the place of the shipped one."""
    folder = tmp_path_factory.mktemp("shipped")
    monkeypatch.setattr("pipeline.models.folders.SHIPPED", folder)
    return folder


def settings_for(store: Path, precision: str = "auto") -> Settings:
    return Settings(models=ModelSettings(store=str(store)), runtime=RuntimeSettings(precision=precision))  # type: ignore[arg-type]


def test_a_card_reads_back_as_it_was_written(tmp_path: Path) -> None:
    card = ModelCard(
        name="chat",
        version="1",
        task="text-generation",
        description='Quotes " and\nlines',
        license="Apache-2.0",
        source="here",
        variants={"int8": Variant(file="int8.onnx", sha256="0" * 64, method="m", measured={"kl": 0.01})},
        text=TextSpec(
            tokenizer="tokenizer.json",
            layers=1,
            kv_heads=1,
            head_size=8,
            vocabulary=16,
            max_length=32,
            eos_token_ids=(2, 3),
            special={"eos_token": "<|end|>"},
        ),
        files={"tokenizer.json": "1" * 64},
    )
    write_card(card, tmp_path)
    assert read_card(tmp_path) == card


def test_a_model_is_found_by_name_and_by_version(tmp_path: Path) -> None:
    put(tmp_path)
    settings = settings_for(tmp_path)
    assert find_model("toy", settings) == find_model("toy@1.0", settings)
    assert find_model("toy", settings).spec == "toy@1.0"


def test_several_versions_without_a_pointer_are_refused_with_what_to_run(tmp_path: Path) -> None:
    for version in ("0.9", "0.10", "0.2"):
        put(tmp_path, version=version)
    with pytest.raises(ModelError, match=r"promoted: 0\.2, 0\.9, 0\.10.*models promote toy VERSION.*toy@VERSION"):
        find_model("toy", settings_for(tmp_path))
    assert find_model("toy@0.9", settings_for(tmp_path)).card.version == "0.9"


def test_a_name_means_the_promoted_version_and_not_the_newest(tmp_path: Path) -> None:
    for version in ("0.9", "0.10", "0.2"):
        put(tmp_path, version=version)
    write_pointer(tmp_path / "toy", "0.9")
    assert find_model("toy", settings_for(tmp_path)).card.version == "0.9"
    write_pointer(tmp_path / "toy", "0.2")
    assert find_model("toy", settings_for(tmp_path)).card.version == "0.2"
    listed = [folder.name for folder in list_folders(settings_for(tmp_path)) if folder.parent.name == "toy"]
    assert listed == ["0.10", "0.9", "0.2"]


def test_a_pointer_to_a_version_that_is_not_here_is_refused_even_if_there_is_only_one_other(tmp_path: Path) -> None:
    put(tmp_path)
    write_pointer(tmp_path / "toy", "9")
    with pytest.raises(ModelError, match=r"names version '9', which is not here, only 1\.0.*models promote toy"):
        find_model("toy", settings_for(tmp_path))


@pytest.mark.parametrize("content", ["", "../1.0\n", "1.0\n2.0\n", "\0", "1.0 "])
def test_a_pointer_that_is_no_versions_name_is_refused(tmp_path: Path, content: str) -> None:
    put(tmp_path)
    (tmp_path / "toy" / "latest").write_text(content)
    with pytest.raises(ModelError, match=r"latest is damaged.*models promote toy VERSION"):
        find_model("toy", settings_for(tmp_path))


def test_a_version_in_the_store_hides_the_shipped_one(tmp_path: Path, shipped: Path) -> None:
    put(shipped)
    write_pointer(shipped / "toy", "1.0")
    assert find_model("toy", settings_for(tmp_path)).folder.is_relative_to(shipped)
    mine = put(tmp_path)
    assert find_model("toy", settings_for(tmp_path)).folder == mine
    assert list_folders(settings_for(tmp_path)) == [mine]


def test_another_version_in_the_store_serves_only_once_it_is_promoted_over_the_shipped_one(
    tmp_path: Path, shipped: Path
) -> None:
    put(shipped)
    write_pointer(shipped / "toy", "1.0")
    put(tmp_path, version="2.0")
    assert find_model("toy", settings_for(tmp_path)).card.version == "1.0"
    write_pointer(tmp_path / "toy", "2.0")
    assert find_model("toy", settings_for(tmp_path)).card.version == "2.0"
    write_pointer(tmp_path / "toy", "1.0")
    assert find_model("toy", settings_for(tmp_path)).folder.is_relative_to(shipped)


def test_every_shipped_model_has_a_pointer_to_a_version_that_is_there() -> None:
    for folder in {card.parent.parent for card in SHIPPED.glob("*/*/model.toml")}:
        assert (folder / (read_pointer(folder) or "no pointer") / "model.toml").is_file(), folder


def test_a_model_not_pulled_yet_says_how_to_pull_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="millrace models pull smollm2-135m"):
        find_model("smollm2-135m", settings_for(tmp_path))


def test_an_unknown_model_gets_the_nearest_name(tmp_path: Path) -> None:
    put(tmp_path)
    with pytest.raises(ModelError, match="Did you mean 'toy'"):
        find_model("tooy", settings_for(tmp_path))


def test_an_unknown_version_is_refused(tmp_path: Path) -> None:
    put(tmp_path)
    with pytest.raises(ModelError, match=r"no version '2\.0'"):
        find_model("toy@2.0", settings_for(tmp_path))


@pytest.mark.parametrize("spec", ["", "../etc", "Toy", "toy@", "toy@../1", "a/b", "*"])
def test_a_malformed_name_never_reaches_the_disk(tmp_path: Path, spec: str) -> None:
    with pytest.raises(ModelError, match="NAME@VERSION"):
        find_model(spec, settings_for(tmp_path))


def test_a_card_that_cannot_be_read_concerns_no_other_version_and_is_listed_with_them(tmp_path: Path) -> None:
    good, bad = put(tmp_path), put(tmp_path, "bad")
    (bad / "model.toml").write_text("no card")
    settings = settings_for(tmp_path)
    assert find_model("toy", settings).folder == good
    assert {good, bad} < set(list_folders(settings))
    with pytest.raises(
        ModelError, match=r"bad/1\.0/model\.toml.*models build SOURCE --name bad --version 1\.0 --force"
    ):
        read_folder(bad)


def test_what_is_being_built_and_what_stands_beside_the_versions_is_no_version(tmp_path: Path, shipped: Path) -> None:
    mine = put(tmp_path)
    for folder in (".toy@staging-abc/built", "toy/profiles", "toy/.trash"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "model.toml").write_text("")
    assert list_folders(settings_for(tmp_path)) == [mine]


def test_what_goes_away_while_the_store_is_looked_through_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shipped: Path
) -> None:
    mine, gone = put(tmp_path), put(tmp_path, "gone").parent
    scandir = os.scandir

    def look(folder: Any) -> Any:
        """The folder is there when the store is listed, and not when it is its own turn."""
        if str(folder) == str(gone):
            shutil.rmtree(gone, ignore_errors=True)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", look)
    assert list_folders(settings_for(tmp_path)) == [mine]


def test_a_promoted_version_that_was_away_for_a_moment_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while it is built again in place: it came back after the folders were listed."""
    put(tmp_path)
    put(tmp_path, version="2.0")
    monkeypatch.setattr("pipeline.models.names.promoted_version", lambda *_: "1.0")
    shutil.rmtree(tmp_path / "toy" / "1.0")
    with pytest.raises(ModelError, match=r"model toy has no version '1\.0'"):
        find_model("toy", settings_for(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("toy", "millrace models build SOURCE --name toy --version 1.0 --force"),
        ("smollm2-135m", "millrace models pull smollm2-135m --force"),
    ],
)
def test_a_changed_graph_does_not_serve_and_its_way_out_is_a_command_that_makes_it_again(
    tmp_path: Path, name: str, message: str
) -> None:
    put(tmp_path, name, graph=b"grapH")
    with pytest.raises(ModelError, match=rf"int8\.onnx is damaged.*`{message}`"):
        find_model(name, settings_for(tmp_path))


def test_the_way_out_of_a_damaged_shipped_model_is_to_install_millrace_again(
    tmp_path: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.models.shelves.SHIPPED", shipped)
    put(shipped, graph=b"grapH")
    with pytest.raises(ModelError, match=r"is damaged.*install Millrace again"):
        find_model("toy", settings_for(tmp_path))


def test_a_changed_label_file_does_not_serve(tmp_path: Path) -> None:
    (put(tmp_path) / "labels.txt").write_text("dog\ncat\n")
    with pytest.raises(ModelError, match=r"labels\.txt is damaged"):
        find_model("toy", settings_for(tmp_path))


def test_a_missing_graph_is_named(tmp_path: Path) -> None:
    (put(tmp_path) / "int8.onnx").unlink()
    with pytest.raises(ModelError, match=r"cannot read .*int8\.onnx: No such file.*models build SOURCE"):
        find_model("toy", settings_for(tmp_path))


def test_a_precision_the_model_lacks_is_refused(tmp_path: Path) -> None:
    put(tmp_path)
    with pytest.raises(ModelError, match="no fp32 variant for cpu, only int8"):
        find_model("toy", settings_for(tmp_path, "fp32"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[image]", "[imago]", "unknown field `imago`"),
        ('"int8.onnx"', '"../int8.onnx"', "not the name of a file beside the card"),
        ('labels = "labels.txt"', 'labels = "/etc/passwd"', "not the name of a file beside the card"),
        ("channels = 1", "channels = 2", r"Invalid enum value 2 - at `\$.image.channels`"),
        ('task = "image-classification"', 'task = "text-generation"', r"needs a \[text\] table"),
        ('name = "toy"', 'name = "other"', "describes other@1.0, not this folder"),
        ('name = "toy"', 'name = "toy', "models build SOURCE --name toy --version 1.0 --force"),
    ],
)
def test_a_bad_card_says_where_and_why(tmp_path: Path, old: str, new: str, message: str) -> None:
    card = put(tmp_path) / "model.toml"
    text = card.read_text()
    assert old in text
    card.write_text(text.replace(old, new))
    with pytest.raises(ModelError, match=message):
        find_model("toy", settings_for(tmp_path))


@pytest.mark.parametrize(
    ("make", "unlisted"),
    [
        (fake_classifier, "labels.txt"),
        (fake_generator, "tokenizer.json"),
        (fake_generator, "chat_template.jinja"),
        (fake_text_classifier, "labels.txt"),
        (fake_embedder, "tokenizer.json"),
        (fake_zero_shot, "tokenizer.json"),
        (fake_reader, "chat_template.jinja"),
    ],
)
def test_a_file_that_is_read_and_whose_digest_the_card_leaves_out_is_named_with_what_to_do(
    tmp_path: Path, make: Callable[[Path], ServedModel], unlisted: str
) -> None:
    folder = put_version(tmp_path, "1", make=make)
    card = read_card(folder)
    assert unlisted in card.files
    write_card(replace(card, files={name: it for name, it in card.files.items() if name != unlisted}), folder)
    with pytest.raises(ModelError, match=rf"{unlisted}.*no digest.*\[files\].*sha256sum .*{unlisted}"):
        find_model("toy", settings_for(tmp_path))


def test_weights_beside_a_graph_that_no_part_names_are_not_read(tmp_path: Path) -> None:
    folder = put_version(tmp_path, "1")
    card = read_card(folder)
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "weights")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="int8.onnx.data")
    graph, data = folder / "int8.onnx", folder / "int8.onnx.data"
    graph.write_bytes(onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor])).SerializeToString())
    data.write_bytes(bytes(16))
    alone = Variant(file="int8.onnx", sha256=sha256_of(graph))
    write_card(replace(card, variants={"int8": alone}), folder)
    with pytest.raises(ModelError, match=r"int8\.onnx keeps weights in int8\.onnx\.data.*no digest.*\[variants"):
        find_model("toy", settings_for(tmp_path))
    parts = {"data": GraphFile(file="int8.onnx.data", sha256=sha256_of(data))}
    write_card(replace(card, variants={"int8": replace(alone, parts=parts)}), folder)
    assert find_model("toy", settings_for(tmp_path)).folder == folder
    data.write_bytes(bytes(15))
    with pytest.raises(ModelError, match=r"int8\.onnx\.data is damaged"):
        find_model("toy", settings_for(tmp_path))
