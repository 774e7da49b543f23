from __future__ import annotations

import itertools
import os
import stat
import threading
from pathlib import Path

import pytest

from pipeline.models.files import replace_file
from tests.waiting import wait_until


def test_a_reader_never_finds_half_a_file_or_none(tmp_path: Path) -> None:
    path, contents = tmp_path / "latest", ("a" * 9_000, "b" * 9_000)
    replace_file(path, contents[0])
    found: set[str] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            found.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    turns = itertools.cycle(contents)
    wait_until(lambda: len(found) > 1, "both are found", poll_s=0, busy=lambda: replace_file(path, next(turns)))
    for _ in range(40):
        replace_file(path, next(turns))
    done.set()
    reader.join()
    assert found == set(contents)


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "latest"
    named: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: named.append(path.exists()))
    replace_file(path, "1\n")
    assert named == [False, True], "first the file, then the folder that names it"


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "latest"
    replace_file(path, "1\n")

    def full(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        replace_file(path, "2\n")
    assert path.read_text() == "1\n"
    assert os.listdir(tmp_path) == ["latest"]  # noqa: PTH208


def test_others_may_read_it(tmp_path: Path) -> None:
    replace_file(tmp_path / "a" / "latest", "1\n")
    assert stat.S_IMODE((tmp_path / "a" / "latest").stat().st_mode) == 0o644
