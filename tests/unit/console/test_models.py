from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from console.main import cli
from pipeline.models.card import ImageSpec, ModelCard, Variant
from pipeline.models.cardfile import write_card
from pipeline.models.store import find_model
from pipeline.settings import load_settings


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
        variants={"int8": Variant(file="int8.onnx", sha256=digest, measured={"top1_agreement": 0.98})},
        image=ImageSpec(height=8, width=8, channels=1, resize=8, labels="labels.txt"),
    )
    write_card(card, folder)
    monkeypatch.setenv("MILLRACE_MODELS__STORE", str(tmp_path))
    return folder


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
    assert listed["pullable"] == ["smollm2-135m", "efficientnet-lite0"]
    assert "millrace models pull smollm2-135m" in run("list")[1]


def test_show_gives_the_card_and_the_measured_figures(store: Path) -> None:
    assert run_json("show", "toy")["variants"]["int8"]["measured"] == {"top1_agreement": 0.98}
    assert "top1_agreement 0.98" in run("show", "toy@1.0")[1]
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


def test_verify_of_a_model_that_is_not_here_fails(store: Path) -> None:
    assert run("verify", "smollm2-135m")[0] == 1


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
    monkeypatch.setattr("pipeline.factory.pull.pull", lambda name, *_, **__: find_model("toy", load_settings()))
    assert [model["name"] for model in run_json("pull")["models"]] == ["toy"]
    assert "to pull: efficientnet-lite0" in run("pull")[1]
