from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from console.main import cli
from pipeline.models.pointer import read_pointer, write_pointer
from tests.model_store import put_version


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with two versions of ``toy``, the first one promoted."""
    for version in ("1", "2"):
        put_version(tmp_path, version)
    write_pointer(tmp_path / "toy", "1")
    monkeypatch.setenv("MILLRACE_MODELS__STORE", str(tmp_path))
    return tmp_path


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and the error."""
    result = CliRunner().invoke(cli, ["models", *arguments], standalone_mode=False)
    error = result.exception
    if isinstance(error, click.ClickException):
        return error.exit_code, result.stdout, error.format_message()
    return result.return_value or 0, result.stdout, result.stderr


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json")[1])


def test_promote_moves_the_pointer_and_says_from_where(store: Path) -> None:
    assert run("promote", "toy", "2")[:2] == (0, "toy now means toy@2; before, toy@1\n")
    assert read_pointer(store / "toy") == "2"
    said = run_json("promote", "toy", "1")
    assert (said["name"], said["version"], said["before"]) == ("toy", "1", "2")
    assert run("promote", "toy", "1")[1] == "toy now means toy@1\n"


def test_promote_of_what_is_not_here_fails_and_without_a_version_it_is_wrong_usage(store: Path) -> None:
    status, _, error = run("promote", "toy", "3")
    assert (status, "no version '3'" in error) == (1, True)
    assert run("promote", "toy")[0] == 2
    assert read_pointer(store / "toy") == "1"


def test_a_version_is_named_in_one_word_or_in_two(store: Path) -> None:
    assert run("promote", "toy@2")[:2] == (0, "toy now means toy@2; before, toy@1\n")
    assert run("remove", "toy", "1")[:2] == (0, "toy@1 is removed\n")


@pytest.mark.parametrize("spec", [("toy",), ("toy@2", "1"), ("toy@1@2",), ("toy", "1", "2")])
def test_anything_but_one_version_is_wrong_usage(store: Path, spec: tuple[str, ...]) -> None:
    for command in ("promote", "remove"):
        status, _, error = run(command, *spec)
        assert (status, "as NAME@VERSION or NAME VERSION" in error) == (2, True)
    assert sorted(folder.name for folder in (store / "toy").iterdir() if folder.is_dir()) == ["1", "2"]


def test_remove_takes_a_version_but_not_the_promoted_one_unless_forced(store: Path) -> None:
    assert run("remove", "toy@2")[:2] == (0, "toy@2 is removed\n")
    status, _, error = run("remove", "toy@1")
    assert (status, "--force" in error) == (1, True)
    assert run_json("remove", "toy@1", "--force")["folder"] == str(store / "toy" / "1")
    assert not (store / "toy").exists()


def test_remove_without_a_version_is_wrong_usage_and_of_a_shipped_one_fails(store: Path) -> None:
    assert run("remove", "toy")[0] == 2
    status, _, error = run("remove", "digits-tiny@1.0.0")
    assert (status, "is shipped" in error) == (1, True)


def test_verify_looks_at_the_pointers_too(store: Path) -> None:
    assert run("verify", "toy")[:2] == (0, "toy@2: sound\ntoy@1: sound\ntoy: 1 is promoted\n")
    write_pointer(store / "toy", "9")
    status, said, _ = run("verify")
    assert (status, "names version '9', which is not here" in said) == (1, True)
    (pointer,) = [it for it in run_json("verify")["pointers"] if it["model"] == "toy"]
    assert "names version '9'" in pointer["error"]
    (store / "toy" / "latest").unlink()
    assert "toy: no version is pinned" in run("verify", "toy")[1]
