from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from console.main import cli
from console.models import models
from pipeline.models.card import ImageSpec, ModelCard, Rejected, Variant, VariantName
from pipeline.models.cardfile import check_variant, write_card
from pipeline.models.replacing import replace_folder
from pipeline.models.store import find_model, read_model
from pipeline.settings import load_settings
from tests.model_store import put_version


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with the model ``toy``."""
    folder = tmp_path / "toy" / "1.0"
    folder.mkdir(parents=True)
    (folder / "int8.onnx").write_bytes(b"graph")
    (folder / "labels.txt").write_text("cat\n")
    digest = hashlib.sha256(b"graph").hexdigest()
    card = ModelCard(
        name="toy",
        version="1.0",
        task="image-classification",
        description="A toy.",
        license="Apache-2.0",
        source="made here",
        variants={
            "int8": Variant(
                file="int8.onnx", sha256=digest, method="static", measured={"top1_agreement": 0.98, "kl": 0.1}
            )
        },
        rejected={"int8-weights": Rejected(method="weights alone", reason="top1_agreement", measured={"kl": 0.7})},
        image=ImageSpec(height=8, width=8, channels=1, resize=8, labels="labels.txt"),
        files={"labels.txt": hashlib.sha256(b"cat\n").hexdigest()},
    )
    write_card(card, folder)
    monkeypatch.setenv("MILLRACE_MODELS__STORE", str(tmp_path))
    return folder


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["models", *arguments], standalone_mode=False)
    error = result.exception.format_message() if isinstance(result.exception, click.ClickException) else result.stderr
    return (1 if result.exception else result.return_value or 0), result.stdout, error


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json")[1])


def test_list_names_what_is_here_and_what_can_be_pulled(store: Path) -> None:
    listed = run_json("list")
    (toy,) = [model for model in listed["models"] if model["name"] == "toy"]
    assert (toy["version"], toy["shipped"], toy["folder"]) == ("1.0", False, str(store))
    assert toy["bytes"] > 10
    assert listed["pullable"] == ["smollm2-135m", "efficientnet-lite0", "all-minilm-l6-v2"]
    assert "millrace models pull smollm2-135m" in run("list")[1]


def test_list_marks_the_promoted_version_and_gives_a_telling_figure_of_each_variant(store: Path) -> None:
    shutil.copytree(store, store.parent / "2.0")
    card = (store.parent / "2.0" / "model.toml").read_text().replace('version = "1.0"', 'version = "2.0"')
    (store.parent / "2.0" / "model.toml").write_text(card)
    (store.parent / "latest").write_text("1.0\n")
    promoted = {model["version"]: model["promoted"] for model in run_json("list")["models"] if model["name"] == "toy"}
    assert promoted == {"2.0": False, "1.0": True}
    listed = run("list")[1]
    assert "1.0 *" in listed
    assert "2.0 *" not in listed
    assert "int8 (top1_agreement 0.98)" in listed
    assert "int8-weights rejected" in listed
    (store.parent / "latest").unlink()
    assert "*" not in "".join(line for line in run("list")[1].splitlines() if line.startswith("toy"))


def test_list_breaks_no_name_in_a_terminal_of_80_columns(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shutil.move(store.parent, store.parent.parent / "efficientnet-lite0")
    card = store.parent.parent / "efficientnet-lite0" / "1.0" / "model.toml"
    card.write_text(card.read_text().replace('"toy"', '"efficientnet-lite0"').replace("0.98", "0.987654321"))
    listed = run("list")[1]
    (row,) = [line.split() for line in listed.splitlines() if line.startswith("efficientnet-lite0 ")]
    assert row[:5] == ["efficientnet-lite0", "1.0", "*", "image-classification", "int8"]
    assert {"digits-tiny", "object-detection", "int8-weights", "(top1_agreement", "0.9877)"} <= set(listed.split())


def test_a_card_that_cannot_be_read_costs_list_a_warning_and_verify_says_which_one_it_is(store: Path) -> None:
    bad = store.parent.parent / "bad" / "1"
    bad.mkdir(parents=True)
    (bad / "model.toml").write_text("no card")
    status, listed, warned = run("list")
    assert (status, "toy" in listed, "bad" in listed) == (0, True, False)
    assert warned.count("\n") == 1
    assert f"model card {bad / 'model.toml'}: " in warned
    document = run_json("list")
    assert {"toy", "digits-tiny"} < {model["name"] for model in document["models"]}
    (damaged,) = document["damaged"]
    assert (damaged["model"], damaged["folder"], damaged["error"] in warned) == ("bad@1", str(bad), True)
    assert run("verify", "digits-tiny", "toy")[0] == 0
    for names in ([], ["bad"], ["bad@1"]):
        status, said, _ = run("verify", *names)
        assert (status, f"bad@1: model card {bad / 'model.toml'}: " in said) == (1, True)
    assert "toy@1.0: sound" in run("verify")[1]


def test_a_version_whose_card_is_gone_is_told_by_list_and_verify(store: Path) -> None:
    assert run_json("list")["damaged"] == []
    (store / "model.toml").unlink()
    (store.parent / "profiles").mkdir()
    (store.parent / ".trash").mkdir()
    (store.parent / "notes.txt").touch()
    listed = run_json("list")
    assert "toy" not in {model["name"] for model in listed["models"]}
    assert [(one["model"], one["folder"]) for one in listed["damaged"]] == [("toy@1.0", str(store))]
    assert f"model card {store / 'model.toml'}: No such file" in run("list")[2]
    for names in ([], ["toy"], ["toy@1.0"]):
        status, said, _ = run("verify", *names)
        assert (status, said.count("toy@1.0: model card")) == (1, 1)
    assert run("remove", "toy@1.0")[0] == 0
    assert run("verify")[0] == 0


def test_a_version_without_a_card_does_not_keep_a_model_from_being_pulled_and_hides_no_shipped_one(store: Path) -> None:
    for folder in ("smollm2-135m/1.0.0", "digits-tiny/1.0.0"):
        (store.parent.parent / folder).mkdir(parents=True)
    listed = run_json("list")
    assert "smollm2-135m" in listed["pullable"]
    assert "digits-tiny" in {model["name"] for model in listed["models"]}
    assert {one["model"] for one in listed["damaged"]} == {"smollm2-135m@1.0.0", "digits-tiny@1.0.0"}
    assert run("verify", "digits-tiny")[1].count("digits-tiny@1.0.0: ") == 2


def test_show_gives_the_card_and_what_was_measured_of_every_variant(store: Path) -> None:
    shown = run_json("show", "toy")
    assert shown["variants"]["int8"]["measured"] == {"top1_agreement": 0.98, "kl": 0.1}
    assert (shown["promoted"], shown["folder"]) == (True, str(store))
    text = run("show", "toy@1.0")[1]
    for said in ("toy@1.0, promoted", "rejected", "weights alone: top1_agreement"):
        assert said in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()}
    assert (rows["top1_agreement"], rows["kl"]) == (["0.98"], ["0.1", "0.7"])


def test_show_refuses_a_model_that_is_unknown(store: Path) -> None:
    status, _, error = run("show", "other")
    assert status == 1
    assert "model other is unknown" in error


def test_verify_fails_on_damage_and_says_where(store: Path) -> None:
    assert run("verify", "toy")[0] == 0
    (store / "int8.onnx").write_bytes(b"grapH")
    status, out, _ = run("verify", "toy")
    assert status == 1
    assert "int8.onnx is damaged" in out
    assert "damaged" in run_json("verify", "toy")["models"][0]["error"]


def test_verify_looks_again_at_a_version_that_is_replaced_meanwhile(
    store: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, elsewhere = list[Path](), tmp_path_factory.mktemp("built")

    def replace_and_check(card: ModelCard, folder: Path, variant: VariantName) -> None:
        if not built:
            built.append(put_version(elsewhere, "1.0"))
            replace_folder(built[0], folder)
        check_variant(card, folder, variant)

    monkeypatch.setattr("pipeline.models.store.check_variant", replace_and_check)
    status, said, _ = run("verify", "toy")
    assert (status, "toy@1.0: sound" in said) == (0, True)


def test_verify_of_a_model_that_is_not_here_fails(store: Path) -> None:
    assert run("verify", "smollm2-135m")[0] == 1
    assert "Did you mean 'toy'?" in run("verify", "tay")[2]
    assert "model toy has no version '7'" in run("verify", "toy@7")[2]


def test_pull_checks_every_name_before_it_fetches_anything(store: Path) -> None:
    status, out, error = run("pull", "smollm2-135m", "no-such-model")
    assert status == 1
    assert "'no-such-model' cannot be pulled" in error
    assert out == ""


def test_pull_without_names_pulls_what_is_served(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_MODELS__SERVE", "digits-tiny")
    assert run_json("pull") == {"models": []}
    assert "nothing to pull" in run("pull")[1]
    monkeypatch.setenv("MILLRACE_MODELS__SERVE", "efficientnet-lite0@1,digits-tiny")
    monkeypatch.setattr("pipeline.factory.recipes.pull.pull", lambda name, *_, **__: find_model("toy", load_settings()))
    assert [model["name"] for model in run_json("pull")["models"]] == ["toy"]
    assert "to pull: efficientnet-lite0" in run("pull")[1]


def test_pull_says_that_a_version_beside_the_promoted_one_waits(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.parent / "latest").write_text("1.0\n")
    newer = shutil.copytree(store, store.parent / "2.0")
    (newer / "model.toml").write_text((newer / "model.toml").read_text().replace('"1.0"', '"2.0"'))

    def pulled(version: str) -> str:
        model = read_model(f"toy@{version}", load_settings())
        monkeypatch.setattr("pipeline.factory.recipes.pull.pull", lambda *_, **__: model)
        return run("pull", "smollm2-135m")[1]

    assert "millrace models promote toy 2.0" in pulled("2.0")
    assert "promote" not in pulled("1.0")


def test_families_names_what_can_be_built() -> None:
    found = {family["name"]: family for family in run_json("families")["families"]}
    assert found["gpt2"] == {"name": "gpt2", "tasks": ["text-generation"], "architectures": ["GPT2LMHeadModel"]}
    assert "GPT2LMHeadModel" in run("families")[1]


def test_every_command_says_what_it_does() -> None:
    names = models.list_commands(click.Context(models))
    assert {"list", "show", "build", "optimize", "tune", "promote", "verify", "remove"} <= set(names)
    for name in names:
        status, said, _ = run(name, "--help")
        assert (status, said.startswith("Usage: "), len(said.splitlines()) > 6) == (0, True, True), name
    assert "kafka:TOPIC[/PARTITION][:FROM-TO]" in run("optimize", "--help")[1]
