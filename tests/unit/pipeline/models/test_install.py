from __future__ import annotations

import errno
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import ModelError
from pipeline.factory.versions import new_version
from pipeline.models import folders
from pipeline.models.install import install, locked, staging
from pipeline.models.pointer import read_pointer, write_pointer
from pipeline.models.promotion import promote, remove
from pipeline.models.store import find_model
from pipeline.settings import ModelSettings, Settings
from tests.model_store import put_version

INSTALL = """
import os, signal, sys
from pathlib import Path
from pipeline.models import folders
from pipeline.models.install import install, locked, staging
rename, store = Path.rename, Path(sys.argv[1])
def between(path, target):
    if path.name == "built":
        {between}
    return rename(path, target)
Path.rename = between
with locked(store, "toy", print), staging(store, "toy", 0) as scratch:
    install(Path(sys.argv[2]).rename(scratch / "built"), store / "toy" / "1")
"""
"""Replaces a version, and does something between the two steps: the old one away, the new one in."""


def install_version(store: Path, version: str, name: str = "toy") -> None:
    built = store / ".staging" / "built"
    built.mkdir(parents=True)
    (built / "model.toml").write_text(version)
    install(built, store / name / version)


def test_the_first_version_is_promoted_and_later_ones_are_not(tmp_path: Path) -> None:
    install_version(tmp_path, "1")
    assert read_pointer(tmp_path / "toy") == "1"
    install_version(tmp_path, "2")
    assert read_pointer(tmp_path / "toy") == "1"


def test_building_the_promoted_version_again_keeps_the_pointer(tmp_path: Path) -> None:
    install_version(tmp_path, "1")
    install_version(tmp_path, "2")
    write_pointer(tmp_path / "toy", "2")
    (tmp_path / ".staging" / "built").mkdir(parents=True, exist_ok=True)
    built = tmp_path / ".staging" / "built"
    (built / "model.toml").write_text("2 again")
    install(built, tmp_path / "toy" / "2")
    assert read_pointer(tmp_path / "toy") == "2"
    assert (tmp_path / "toy" / "2" / "model.toml").read_text() == "2 again"


def test_a_version_that_stood_alone_before_there_were_pointers_goes_on_serving(tmp_path: Path) -> None:
    old = tmp_path / "toy" / "1"
    old.mkdir(parents=True)
    (old / "model.toml").touch()
    install_version(tmp_path, "2")
    assert read_pointer(tmp_path / "toy") == "1"


def test_where_none_of_several_versions_is_promoted_another_one_is_not_either(tmp_path: Path) -> None:
    for version in ("1", "2"):
        install_version(tmp_path, version)
    (tmp_path / "toy" / "latest").unlink()
    install_version(tmp_path, "3")
    assert read_pointer(tmp_path / "toy") is None


def test_a_version_of_a_shipped_model_does_not_promote_itself(tmp_path: Path) -> None:
    install_version(tmp_path, "2.0", name="digits-tiny")
    assert read_pointer(tmp_path / "digits-tiny") is None


def test_a_version_that_cannot_take_its_place_leaves_the_old_one_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_version(tmp_path, "1")
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if path.name == "built":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    built = tmp_path / ".staging" / "built"
    built.mkdir()
    with pytest.raises(KeyboardInterrupt):
        install(built, tmp_path / "toy" / "1")
    assert (tmp_path / "toy" / "1" / "model.toml").read_text() == "1"


@pytest.fixture
def killed(tmp_path: Path) -> Settings:
    """Settings with a store whose only version was away when the command that replaced it was killed."""
    settings = Settings(models=ModelSettings(store=str(tmp_path)))
    put_version(tmp_path, "1")
    kill_install(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert not (tmp_path / "toy" / "1").exists()
    return settings


def installing(store: Path, between: str) -> list[str]:
    """The command that replaces the version 1 by another one."""
    built = put_version(store.parent / f"{store.name}-made", "1", graph=b"another")
    return [sys.executable, "-c", INSTALL.format(between=between), str(store), str(built)]


def kill_install(store: Path, between: str) -> None:
    assert subprocess.run(installing(store, between), check=False, timeout=60).returncode == -signal.SIGKILL


def test_a_version_that_was_away_when_its_replacement_was_killed_is_found_by_whoever_looks_for_it(
    killed: Settings,
) -> None:
    assert b"graph of toy@1" in find_model("toy", killed).path("int8").read_bytes()
    assert {file.name for file in (killed.models.store_path / "toy").iterdir()} == {"1", "latest"}


@pytest.mark.parametrize(
    ("change", "versions"),
    [
        (lambda settings: promote("toy", "1", settings), {"1"}),
        (lambda settings: remove("toy", "1", settings, force=True), set()),
        (lambda settings: install_version(settings.models.store_path, "2"), {"1", "2"}),
        (lambda settings: install_version(settings.models.store_path, "1"), {"1"}),
    ],
)
def test_every_change_first_puts_back_what_a_killed_one_left_away(
    killed: Settings, change: Callable[[Settings], object], versions: set[str]
) -> None:
    change(killed)
    folder = killed.models.store_path / "toy"
    assert {card.parent.name for card in folder.glob("*/model.toml")} == versions
    assert not list(folder.glob(".*"))


def test_a_version_that_a_killed_command_left_away_still_has_its_number(killed: Settings) -> None:
    store = killed.models.store_path
    with locked(store, "toy", pytest.fail):
        assert new_version(store, "toy", None) == "2"


def test_a_kill_after_both_steps_leaves_the_new_version_and_the_next_change_removes_the_old_one(
    tmp_path: Path,
) -> None:
    settings = Settings(models=ModelSettings(store=str(tmp_path)))
    put_version(tmp_path, "1")
    after = "rename(path, target), os.kill(os.getpid(), signal.SIGKILL)"
    kill_install(tmp_path, after)
    assert b"another" in find_model("toy", settings).path("int8").read_bytes()
    promote("toy", "1", settings)
    assert b"another" in find_model("toy", settings).path("int8").read_bytes()
    assert {file.name for file in (tmp_path / "toy").iterdir()} == {"1", "latest"}


def test_who_looks_for_a_version_while_it_is_replaced_waits_for_the_new_one(tmp_path: Path) -> None:
    settings, found = Settings(models=ModelSettings(store=str(tmp_path))), list[bytes]()
    put_version(tmp_path, "1")
    reader = threading.Thread(
        target=lambda: found.append(find_model("toy", settings).path("int8").read_bytes()), daemon=True
    )
    command = installing(tmp_path, "print('between', flush=True), input()")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "between\n"
        reader.start()
        reader.join(0.3)
        assert (reader.is_alive(), found) == (True, [])
        process.communicate("on\n", timeout=60)
    reader.join(60)
    assert b"another" in found[0]


def test_a_build_leaves_what_is_being_built_of_a_model_with_a_longer_name_alone(tmp_path: Path) -> None:
    with locked(tmp_path, "toy-staging-2", pytest.fail), staging(tmp_path, "toy-staging-2", 0) as other:
        with locked(tmp_path, "toy", pytest.fail), staging(tmp_path, "toy", 0):
            pass
        assert other.exists()


@pytest.mark.parametrize("version", ["latest", "profiles"])
def test_a_version_cannot_take_the_name_of_what_stands_beside_the_versions(tmp_path: Path, version: str) -> None:
    with pytest.raises(ModelError, match="cannot be named"):
        install_version(tmp_path, version)
    assert not (tmp_path / "toy").exists()


def test_a_version_that_is_moved_aside_just_after_it_was_listed_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_version(tmp_path, "1")
    looks, has_card = iter([False]), folders._has_card
    monkeypatch.setattr(folders, "_has_card", lambda folder: next(looks, True) and has_card(folder))
    assert "1" in folders.versions_of("toy", Settings(models=ModelSettings(store=str(tmp_path))))


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders that half of is deleted, and no more; what is said to be deleted is in it."""
    asked: list[Path] = []

    def half(path: Path, ignore_errors: bool = False) -> None:
        asked.append(path)
        (path / "model.toml").unlink(missing_ok=True)
        if not ignore_errors:
            raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr("shutil.rmtree", half)
    return asked


def test_a_version_has_its_place_also_when_the_old_one_cannot_be_deleted_which_is_warned_of(
    tmp_path: Path, stuck: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    install_version(tmp_path, "1")
    (tmp_path / "toy" / "1" / "held").touch()
    for _ in range(3):  # what stays of an old one is in nobody's way
        caplog.clear()
        install_version(tmp_path, "1")
        assert not (tmp_path / "toy" / "1" / "held").exists()
        (message,) = caplog.messages
        assert message == f"{stuck[-1]} could not be deleted, and is in nobody's way: Device or resource busy"
        (tmp_path / "toy" / "1" / "held").touch()
    assert {file.name for file in (tmp_path / "toy").glob("[!.]*")} == {"1", "latest"}


def test_what_stays_of_an_old_version_never_comes_back_in_its_place_and_goes_when_it_can(
    tmp_path: Path, stuck: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(models=ModelSettings(store=str(tmp_path)))
    for _ in range(2):
        install_version(tmp_path, "1")
    remove("toy", "1", settings, force=True)
    assert folders.versions_of("toy", settings) == {}
    monkeypatch.undo()
    install_version(tmp_path, "1")
    assert {file.name for file in (tmp_path / "toy").iterdir()} == {"1", "latest"}


def test_a_version_that_cannot_be_deleted_is_removed_all_the_same(
    tmp_path: Path, stuck: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    install_version(tmp_path, "1")
    remove("toy", "1", Settings(models=ModelSettings(store=str(tmp_path))), force=True)
    assert not (tmp_path / "toy").exists()
    assert "could not be deleted, and is in nobody's way" in caplog.text


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a folder is deleted."""

    def refuse(_path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("shutil.rmtree", refuse)


@pytest.mark.usefixtures("kept")
def test_what_stays_of_an_old_version_with_its_card_is_not_taken_for_a_version(tmp_path: Path) -> None:
    settings = Settings(models=ModelSettings(store=str(tmp_path)))
    for _ in range(2):
        install_version(tmp_path, "1")
    assert list((tmp_path / "toy").glob(".1@gone-*/model.toml"))
    remove("toy", "1", settings, force=True)
    install_version(tmp_path, "2")
    assert read_pointer(tmp_path / "toy") == "2"


@pytest.mark.usefixtures("kept")
def test_what_stays_of_a_removed_version_is_not_in_the_way_of_the_next_removal(tmp_path: Path) -> None:
    settings = Settings(models=ModelSettings(store=str(tmp_path)))
    for version in ("1", "2"):
        install_version(tmp_path, version)
    for version in ("2", "1"):
        remove("toy", version, settings, force=True)
    assert folders.versions_of("toy", settings) == {}
