from __future__ import annotations

from pathlib import Path

import pytest

from console.models_needed import missing_models, pullable_models
from pipeline.settings import ModelSettings, Settings


def serving(store: Path, *specs: str) -> Settings:
    return Settings(models=ModelSettings(serve=specs, store=str(store)))


@pytest.mark.parametrize("spec", ["smollm2-135m", "smollm2-135m@1.0.0"])
def test_a_model_that_is_not_here_is_missing_by_its_name_with_or_without_a_version(tmp_path: Path, spec: str) -> None:
    assert missing_models(serving(tmp_path, spec, "digits-tiny")) == ["smollm2-135m"]


def test_a_shipped_model_needs_no_pull(tmp_path: Path) -> None:
    settings = serving(tmp_path, "digits-tiny", "digits-tiny@1.0.0")
    assert missing_models(settings) == pullable_models(settings) == []


def test_a_card_that_cannot_be_read_is_no_reason_not_to_start_other_models(tmp_path: Path) -> None:
    (tmp_path / "bad" / "1").mkdir(parents=True)
    (tmp_path / "bad" / "1" / "model.toml").write_text("no card")
    assert missing_models(serving(tmp_path, "digits-tiny", "smollm2-135m")) == ["smollm2-135m"]


def test_a_model_that_is_named_twice_is_pulled_once(tmp_path: Path) -> None:
    settings = serving(tmp_path, "efficientnet-lite0", "efficientnet-lite0@1.0.0")
    assert missing_models(settings) == pullable_models(settings) == ["efficientnet-lite0"]
