from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.tasks.dataref import read_dataref
from schemas.errors import PrepareError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a b.png").write_bytes(b"pixels")
    (tmp_path / "secret").write_bytes(b"secret")
    return folder


def read(dataref: str, root: Path, max_bytes: int = 100) -> bytes:
    return read_dataref(dataref, [str(root)], max_bytes)


def test_a_path_and_a_file_url_under_a_root_are_read(root: Path) -> None:
    assert read(str(root / "a b.png"), root) == b"pixels"
    assert read(f"file://{root}/a%20b.png", root) == b"pixels"
    assert read(f"file://localhost{root}/a%20b.png", root) == b"pixels"


def test_nothing_is_read_when_no_root_is_configured(root: Path) -> None:
    with pytest.raises(PrepareError, match="dataref_roots is empty"):
        read_dataref(str(root / "a b.png"), [], 100)


@pytest.mark.parametrize(
    "form", ["{0}/secret", "{0}/images/../secret", "file://{0}/images/%2e%2e/secret", "/etc/passwd"]
)
def test_what_lies_outside_the_roots_is_refused(root: Path, form: str) -> None:
    with pytest.raises(PrepareError, match="outside"):
        read(form.format(root.parent), root)


def test_a_folder_beside_the_root_with_a_longer_name_is_outside(root: Path) -> None:
    beside = root.parent / "images2"
    beside.mkdir()
    (beside / "x").write_bytes(b"x")
    with pytest.raises(PrepareError, match="outside"):
        read(str(beside / "x"), root)


def test_what_exists_outside_cannot_be_told_from_what_does_not(root: Path) -> None:
    with pytest.raises(PrepareError) as there:
        read(str(root.parent / "secret"), root)
    with pytest.raises(PrepareError) as not_there:
        read(str(root.parent / "nothing"), root)
    assert there.value.message == not_there.value.message


def test_a_link_that_leaves_the_root_is_refused(root: Path) -> None:
    (root / "link").symlink_to(root.parent / "secret")
    (root / "folder").symlink_to(root.parent)
    for name in ("link", "folder/secret"):
        with pytest.raises(PrepareError, match="outside"):
            read(str(root / name), root)


def test_a_link_that_stays_inside_is_followed(root: Path) -> None:
    (root / "link").symlink_to(root / "a b.png")
    assert read(str(root / "link"), root) == b"pixels"


def test_a_root_may_itself_be_a_link(root: Path) -> None:
    alias = root.parent / "alias"
    alias.symlink_to(root)
    assert read(str(alias / "a b.png"), alias) == b"pixels"


@pytest.mark.parametrize(
    "dataref", ["a.png", "http://example.org/a.png", "file://elsewhere/a.png", "s3://b/a", "/a\0b", "file:///a%00b"]
)
def test_other_references_are_refused(root: Path, dataref: str) -> None:
    with pytest.raises(PrepareError, match="absolute path or a file:// URL"):
        read(dataref, root)


def test_a_missing_file_is_refused(root: Path) -> None:
    with pytest.raises(PrepareError, match="no file"):
        read(str(root / "none.png"), root)


def test_a_link_to_itself_is_refused(root: Path) -> None:
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(PrepareError, match="no file"):
        read(str(root / "loop"), root)


@pytest.mark.timeout(60)
def test_a_pipe_is_refused_without_waiting_for_it(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(PrepareError, match="not a regular file"):
        read(str(root / "pipe"), root)


def test_a_folder_is_refused(root: Path) -> None:
    with pytest.raises(PrepareError, match="not a regular file"):
        read(str(root), root)


def test_a_file_above_the_bound_is_refused_with_both_sizes(root: Path) -> None:
    assert read(str(root / "a b.png"), root, max_bytes=6) == b"pixels"
    with pytest.raises(PrepareError, match=r"6 bytes, more than images.max_bytes = 5"):
        read(str(root / "a b.png"), root, max_bytes=5)
