from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pipeline.errors import ModelError
from pipeline.models.install import locked
from pipeline.models.names import pointed_version
from pipeline.models.pointer import read_pointer, write_pointer
from pipeline.models.profile import Point, Profile, profile_path, write_profile
from pipeline.models.promotion import promote, remove
from pipeline.models.store import ServedModel, find_model, read_model
from pipeline.runtime.fakes import fake_generator
from pipeline.settings import ModelSettings, Settings
from tests.model_store import put_version


@pytest.fixture
def store(tmp_path: Path) -> Settings:
    """Settings with a store of two versions of ``toy``, the first one promoted."""
    for version in ("1", "2"):
        put_version(tmp_path, version)
    write_pointer(tmp_path / "toy", "1")
    return Settings(models=ModelSettings(store=str(tmp_path)))


def folder(settings: Settings) -> Path:
    return settings.models.store_path / "toy"


def test_promoting_a_version_makes_the_name_mean_it_and_says_what_it_meant_before(store: Settings) -> None:
    model, before = promote("toy", "2", store)
    assert (model.spec, before) == ("toy@2", "1")
    assert find_model("toy", store).spec == "toy@2"


def test_a_rollback_does_not_wait_for_a_build_of_the_same_name(store: Settings) -> None:
    with locked(store.models.store_path, "toy", pytest.fail):
        rollback = threading.Thread(target=promote, args=("toy", "2", store), daemon=True)
        rollback.start()
        rollback.join(timeout=60)
        assert read_pointer(folder(store)) == "2"


def test_a_version_that_is_removed_while_its_files_are_checked_is_not_promoted(
    store: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = ServedModel.verify

    def verify(model: ServedModel, variant: str) -> None:
        check(model, variant)
        remove("toy", "2", store)

    monkeypatch.setattr(ServedModel, "verify", verify)
    with pytest.raises(ModelError, match="no version '2'"):
        promote("toy", "2", store)
    assert read_pointer(folder(store)) == "1"


def test_removing_waits_for_a_build_of_the_same_name_and_says_so(store: Settings) -> None:
    said, waits = list[str](), threading.Event()

    def say(line: str) -> None:
        said.append(line)
        waits.set()

    removal = threading.Thread(target=lambda: remove("toy", "2", store, say=say), daemon=True)
    with locked(store.models.store_path, "toy", pytest.fail):
        removal.start()
        assert waits.wait(60)
        assert (folder(store) / "2").exists()
    removal.join(timeout=60)
    assert said == ["waiting for another command on toy"]
    assert not (folder(store) / "2").exists()


@pytest.mark.parametrize(("version", "message"), [("3", "no version '3'"), ("../2", "NAME@VERSION")])
def test_what_is_not_here_is_not_promoted(store: Settings, version: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        promote("toy", version, store)
    assert read_pointer(folder(store)) == "1"


def test_a_damaged_version_is_not_promoted(store: Settings) -> None:
    (folder(store) / "2" / "int8.onnx").write_bytes(b"changed")
    with pytest.raises(ModelError, match="is damaged"):
        promote("toy", "2", store)
    assert read_pointer(folder(store)) == "1"


def test_a_version_for_another_task_is_not_promoted(store: Settings) -> None:
    put_version(store.models.store_path, "3", make=fake_generator)
    with pytest.raises(ModelError, match="toy@3 does text-generation and toy@1 does image-classification"):
        promote("toy", "3", store)
    assert pointed_version("toy", store) == "1"


def test_promoting_mends_a_damaged_pointer(store: Settings) -> None:
    (folder(store) / "latest").write_text("///")
    model, before = promote("toy", "2", store)
    assert (before, find_model("toy", store)) == (None, model)


def test_a_shipped_version_is_promoted_by_a_pointer_in_the_store(tmp_path: Path) -> None:
    settings = Settings(models=ModelSettings(store=str(tmp_path)))
    put_version(tmp_path, "9", name="digits-tiny")
    promote("digits-tiny", "9", settings)
    assert find_model("digits-tiny", settings).spec == "digits-tiny@9"
    model, before = promote("digits-tiny", "1.0.0", settings)
    assert (model.spec, before) == ("digits-tiny@1.0.0", "9")
    assert read_pointer(tmp_path / "digits-tiny") == "1.0.0"
    assert tmp_path not in find_model("digits-tiny", settings).folder.parents


def test_a_removed_version_is_gone_with_its_profiles_and_without_those_of_another(store: Settings) -> None:
    put_version(store.models.store_path, "2.0")
    kept = []
    for version in ("2", "2.0"):
        card = read_model(f"toy@{version}", store).card
        point = Point(variant="int8", threads=1, batch_size=1, per_second=1.0)
        profile = Profile(model=f"toy@{version}", device="cpu-1.0", digests={}, points=(point,))
        write_profile(store.models.store_path, card, profile)
        kept.append(profile_path(store.models.store_path, card, "cpu-1.0"))
    assert remove("toy", "2", store) == folder(store) / "2"
    assert {path.name for path in folder(store).iterdir()} == {"1", "2.0", "latest", "profiles"}
    assert list((folder(store) / "profiles").iterdir()) == kept[1:]
    assert not list(store.models.store_path.glob(".toy@staging*"))


def test_the_promoted_version_is_removed_only_by_force_and_its_pointer_with_it(store: Settings) -> None:
    with pytest.raises(ModelError, match=r"toy@1 is promoted.*--force"):
        remove("toy", "1", store)
    assert find_model("toy", store).spec == "toy@1"
    remove("toy", "1", store, force=True)
    assert pointed_version("toy", store) is None
    assert find_model("toy", store).spec == "toy@2"
    remove("toy", "2", store, force=True)
    assert not folder(store).exists()


def test_of_a_version_that_is_a_link_the_link_alone_is_removed(store: Settings) -> None:
    elsewhere = store.models.store_path.parent / f"{store.models.store_path.name}-elsewhere"
    (folder(store) / "2").rename(elsewhere)
    (folder(store) / "2").symlink_to(elsewhere)
    remove("toy", "2", store)
    assert not (folder(store) / "2").exists()
    assert (elsewhere / "model.toml").exists()
    assert not list(store.models.store_path.glob(".toy@staging*"))


def test_a_version_whose_card_cannot_be_read_can_be_removed(store: Settings) -> None:
    (folder(store) / "2" / "model.toml").write_text("no card")
    remove("toy", "2", store)
    assert not (folder(store) / "2").exists()


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("digits-tiny", "1.0.0", "is shipped with Millrace and cannot be removed"),
        ("toy", "7", r"no version '7' in .*Here: .*1"),
        ("toy", "profiles", "no version 'profiles'"),
        ("toy", "..", "NAME@VERSION"),
        ("../toy", "1", "NAME@VERSION"),
    ],
)
def test_nothing_but_a_version_of_the_store_is_removed(store: Settings, name: str, version: str, message: str) -> None:
    (folder(store) / "profiles").mkdir()
    with pytest.raises(ModelError, match=message):
        remove(name, version, store, force=True)
    assert {path.name for path in folder(store).iterdir()} == {"1", "2", "latest", "profiles"}
