from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.errors import ModelError
from pipeline.models.pointer import write_pointer
from pipeline.models.store import ServedModel, find_model, read_model
from pipeline.models.watch import Watch
from pipeline.settings import ModelSettings, Settings
from tests.model_store import put_version


@pytest.fixture
def store(tmp_path: Path) -> Settings:
    """Settings with a store of two versions of ``toy``, the first one promoted."""
    for version in ("1", "2"):
        put_version(tmp_path, version)
    write_pointer(tmp_path / "toy", "1")
    return Settings(models=ModelSettings(store=str(tmp_path)))


@pytest.fixture
def cards_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the watch has read cards of."""
    found: list[str] = []

    def counted(spec: str, settings: Settings) -> ServedModel:
        found.append(spec)
        return read_model(spec, settings)

    monkeypatch.setattr("pipeline.models.watch.read_model", counted)
    return found


def test_while_nothing_changes_no_card_is_read_again(store: Settings, cards_read: list[str]) -> None:
    serving, watching = find_model("toy", store), Watch("toy", store)
    for _ in range(5):
        assert watching.look(serving, "int8") is None
    assert cards_read == ["toy"]


def test_a_pointer_that_is_moved_is_seen_once(store: Settings, cards_read: list[str]) -> None:
    serving, watching = find_model("toy", store), Watch("toy", store)
    watching.look(serving, "int8")
    write_pointer(store.models.store_path / "toy", "2")
    found = watching.look(serving, "int8")
    assert found is not None
    assert found.spec == "toy@2"
    assert watching.look(found, "int8") is None
    assert len(cards_read) == 2


def test_a_pointer_that_was_moved_before_the_first_look_is_seen(store: Settings) -> None:
    serving = find_model("toy", store)
    write_pointer(store.models.store_path / "toy", "2")
    found = Watch("toy", store).look(serving, "int8")
    assert found is not None
    assert found.spec == "toy@2"


def test_a_card_that_is_replaced_in_place_is_seen(store: Settings) -> None:
    serving, watching = find_model("toy", store), Watch("toy", store)
    watching.look(serving, "int8")
    folder = put_version(store.models.store_path, "1", graph=b"built again")
    os.utime(folder / "model.toml", (0, 0))
    found = watching.look(serving, "int8")
    assert found is not None
    assert found.card.variants["int8"].digest != serving.card.variants["int8"].digest


def test_damage_is_told_once_and_again_when_it_is_promoted_again(store: Settings) -> None:
    serving, watching = find_model("toy", store), Watch("toy", store)
    (store.models.store_path / "toy" / "2" / "int8.onnx").write_bytes(b"changed")
    write_pointer(store.models.store_path / "toy", "2")
    with pytest.raises(ModelError, match="is damaged"):
        watching.look(serving, "int8")
    assert watching.look(serving, "int8") is None
    write_pointer(store.models.store_path / "toy", "2")
    with pytest.raises(ModelError, match="is damaged"):
        watching.look(serving, "int8")


def test_a_model_that_is_gone_for_a_moment_is_found_again(store: Settings) -> None:
    serving, watching = find_model("toy", store), Watch("toy", store)
    watching.look(serving, "int8")
    folder = store.models.store_path / "toy" / "1"
    folder.rename(folder.parent / ".away")
    with pytest.raises(ModelError, match="not here"):
        watching.look(serving, "int8")
    (folder.parent / ".away").rename(folder)
    assert watching.look(serving, "int8") is None
