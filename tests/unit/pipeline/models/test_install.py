from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ModelError
from pipeline.models.install import install, locked, staging
from pipeline.models.pointer import read_pointer, write_pointer


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
