from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from console.main import cli
from pipeline.errors import ModelError
from pipeline.factory.samples import Sample
from pipeline.models.store import find_model
from pipeline.settings import load_settings


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["models", "tune", *arguments, "--seconds", "0.01"], standalone_mode=False)
    return (1 if result.exception else result.return_value or 0), result.stdout


def test_tune_measures_a_shipped_model_and_what_it_chooses_is_what_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_MODELS__STORE", str(tmp_path))
    monkeypatch.setenv("MILLRACE_RUNTIME__PROVIDER", "cpu")
    monkeypatch.setenv("MILLRACE_BATCHING__MAX_BATCH_SIZE", "2")
    status, said = run("digits-tiny")
    assert status == 0
    assert said.count(" * ") == 1, "one winner"
    assert "digits-tiny@" in said.splitlines()[-1]
    told: dict[str, Any] = json.loads(run("digits-tiny", "--json")[1])
    assert Path(told["file"]).is_file()
    settings = load_settings()
    chosen = find_model("digits-tiny", settings).choice(settings)
    assert told["choice"] == {key: getattr(chosen, key) for key in ("variant", "threads", "max_batch_size")}
    assert {point["variant"] for point in told["profile"]["points"]} >= {"int8"}


def test_tune_takes_samples_of_several_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_MODELS__STORE", str(tmp_path / "store"))
    measured: list[Sample] = []

    def tune(*_: Any, samples: list[Sample], **__: Any) -> Any:
        measured.extend(samples)
        raise ModelError("seen")

    monkeypatch.setattr("pipeline.factory.tuning.tune.tune", tune)
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / place / f"{place}.png")
    (tmp_path / "lines.jsonl").write_text('{"image": "one/one.png"}\n')
    places = [option for name in ("one", "two", "lines.jsonl") for option in ("--samples", str(tmp_path / name))]
    run("digits-tiny", *places)
    assert len(measured) == 3
    asked: list[str] = []

    def from_kafka(text: str, *_: Any) -> list[Sample]:
        asked.append(text)
        return []

    monkeypatch.setattr("console.models.samples._from_kafka", from_kafka)
    run("digits-tiny", "--samples", "kafka:inference.images/0:1-9")
    assert asked == ["kafka:inference.images/0:1-9"]


def test_tune_of_a_model_that_is_not_here_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_MODELS__STORE", str(tmp_path))
    assert run("no-such-model")[0] == 1
