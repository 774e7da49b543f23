from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.errors import ResultStoreError, SettingsError
from pipeline.results import sqlite
from pipeline.results.sqlite import SqliteStore

OpenStore = Callable[..., SqliteStore]
KEYS = [f"key {i:06}".encode() for i in range(20_000)]


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[OpenStore]:
    stores: list[SqliteStore] = []

    def open_(
        path: Path = tmp_path / "r.db", keep_s: float = 60.0, max_bytes: int = 2**30, busy_s: float = 1.0
    ) -> SqliteStore:
        stores.append(SqliteStore(path, keep_s=keep_s, max_bytes=max_bytes, busy_s=busy_s))
        stores[-1].open()
        return stores[-1]

    yield open_
    for store in stores:
        store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4_096))
    assert shutil.disk_usage(folder).free == 0
    return ballast


def test_a_full_disk_refuses_to_keep_and_still_finds_and_serves_again_when_there_is_space(
    open_store: OpenStore, small_disk: Path
) -> None:
    store = open_store(small_disk / "r.db")
    store.put({b"early": b"1"})
    ballast = fill(small_disk)
    for _ in range(3):
        with pytest.raises(ResultStoreError, match=r"full.*SQLITE_FULL.*free some space"):
            store.put(dict.fromkeys(KEYS[:100], bytes(1_000)))
        assert dict(store.get([b"early", KEYS[0]])) == {b"early": b"1"}
    ballast.unlink()
    store.put({b"late": b"2"})
    assert dict(store.get([b"early", b"late"])) == {b"early": b"1", b"late": b"2"}


def test_a_disk_that_is_full_at_the_start_is_trouble_that_passes(open_store: OpenStore, small_disk: Path) -> None:
    ballast = fill(small_disk)
    store = SqliteStore(small_disk / "r.db", keep_s=60, max_bytes=2**30, busy_s=1)
    with pytest.raises(ResultStoreError):
        store.open()
    ballast.unlink()
    store.put({b"a": b"1"})
    assert store.get([b"a"])
    store.close()


def test_a_bound_of_pages_is_a_full_disk_too(open_store: OpenStore) -> None:
    store = open_store()
    with store._connected() as connection:
        connection.execute("PRAGMA max_page_count = 20")
    with pytest.raises(ResultStoreError, match="SQLITE_FULL"):
        store.put(dict.fromkeys(KEYS[:500], bytes(1_000)))
    assert dict(store.get(KEYS[:500])) == {}, "a transaction is kept whole or not at all"


def test_a_damaged_file_is_named_and_a_new_one_is_made_when_it_is_gone(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store()
    store.put({key: os.urandom(1_000) for key in KEYS[:500]})
    store.close()
    path = tmp_path / "r.db"
    content = bytearray(path.read_bytes())
    content[4_096 : len(content) - 4_096] = os.urandom(len(content) - 8_192)
    path.write_bytes(content)
    with pytest.raises(ResultStoreError, match="move the file away"):
        store.get(KEYS[:500])
    with pytest.raises(ResultStoreError, match="move the file away"):
        store.put({b"new": b"1"})
    path.rename(tmp_path / "damaged.db")
    store.put({b"new": b"1"})
    assert dict(store.get([b"new", KEYS[0]])) == {b"new": b"1"}


def test_a_file_that_is_no_database_is_left_as_it_is(open_store: OpenStore, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n" * 1_000)
    with pytest.raises(ResultStoreError, match="no SQLite file"):
        open_store(path)
    assert path.read_text() == "my notes\n" * 1_000


def test_a_database_of_another_program_stops_the_start_and_is_left_as_it_is(
    open_store: OpenStore, tmp_path: Path
) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE outcome (mine TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(SettingsError, match=r"other\.db is another program's"):
        open_store(path)
    assert path.read_bytes() == before


def test_tables_of_a_later_version_stop_the_start(open_store: OpenStore, tmp_path: Path) -> None:
    open_store().close()
    with sqlite3.connect(tmp_path / "r.db") as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(SettingsError, match="version 9"):
        open_store()


def test_a_folder_that_is_not_there_stops_the_start(open_store: OpenStore, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no folder .*nowhere"):
        open_store(tmp_path / "nowhere" / "r.db")


def test_a_lock_that_lasts_is_an_error_within_the_wait_and_then_it_serves_again(
    open_store: OpenStore, tmp_path: Path
) -> None:
    store = open_store(busy_s=0.1)
    other = sqlite3.connect(tmp_path / "r.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with pytest.raises(ResultStoreError, match=r"locked.*another process"):
        store.put({b"a": b"1"})
    assert time.monotonic() - started < 5
    assert dict(store.get([b"a"])) == {}
    other.close()
    store.put({b"a": b"1"})
    assert store.get([b"a"])


def test_what_is_too_old_goes(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(sqlite, "time", SimpleNamespace(time=lambda: now))
    store = open_store(keep_s=60)
    store.put(dict.fromkeys(KEYS[:600], b"old"))
    now += 61
    store.put(dict.fromkeys(KEYS[600:900], b"new"))
    assert dict(store.get(KEYS[:900])) == dict.fromkeys(KEYS[600:900], b"new")


def test_the_file_stops_growing_at_its_bound_and_the_newest_stay(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store(max_bytes=1_000_000)
    for start in range(0, 20_000, 200):
        store.put(dict.fromkeys(KEYS[start : start + 200], bytes(700)))
    found = store.get(KEYS)
    kept = [key in found for key in KEYS]
    store.close()
    assert (tmp_path / "r.db").stat().st_size < 1_500_000
    assert kept == sorted(kept), "the oldest go first"
    assert 500 < sum(kept) < 1_500


def test_a_bound_that_a_single_value_exceeds_does_no_harm(open_store: OpenStore) -> None:
    store = open_store(max_bytes=65_536)
    for key in KEYS[:600]:
        store.put({key: bytes(100_000)})
    assert len(store.get(KEYS[:600])) < 600


def _put_from_another_process(path: Path, number: int) -> None:
    store = SqliteStore(path, keep_s=60, max_bytes=2**30, busy_s=20)
    store.open()
    for start in range(0, 1_000, 10):
        mine = KEYS[number * 1_000 + start : number * 1_000 + start + 10]
        store.put(dict.fromkeys(mine, b"mine") | {b"shared": str(number).encode()})
    store.close()


def test_processes_that_open_one_new_file_at_once_share_it(open_store: OpenStore, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_put_from_another_process, args=(tmp_path / "r.db", i)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    store = open_store()
    assert len(store.get(KEYS[:3_000])) == 3_000
    assert store.get([b"shared"])[b"shared"] in {b"0", b"1", b"2"}


def test_tables_that_appear_while_a_new_file_is_looked_at_are_no_other_programs(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = sqlite._number
    rivals = [SqliteStore(tmp_path / "r.db", keep_s=60, max_bytes=2**30, busy_s=0.1)]

    def look_late(connection: sqlite3.Connection, query: str) -> int:
        found = look(connection, query)
        if rivals:
            with suppress(ResultStoreError):  # it may find the file locked
                rivals.pop().open()
        return found

    monkeypatch.setattr(sqlite, "_number", look_late)
    store = open_store()
    store.put({b"k": b"v"})
    assert store.get([b"k"]) == {b"k": b"v"}


def _put_and_be_killed(path: Path) -> None:
    store = SqliteStore(path, keep_s=60, max_bytes=2**30, busy_s=5)
    store.open()
    store.put(dict.fromkeys(KEYS[:100], b"before"))
    os.kill(os.getpid(), 9)


def test_what_was_put_outlives_a_killed_process(open_store: OpenStore, tmp_path: Path) -> None:
    worker = multiprocessing.get_context("spawn").Process(target=_put_and_be_killed, args=(tmp_path / "r.db",))
    worker.start()
    worker.join(60)
    assert worker.exitcode == -9
    assert len(open_store().get(KEYS[:100])) == 100


def test_a_copy_of_the_file_without_its_log_is_still_a_store(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store()
    store.put({b"a": b"1"})
    store.close()
    shutil.copy(tmp_path / "r.db", tmp_path / "copy.db")
    assert dict(open_store(tmp_path / "copy.db").get([b"a"])) == {b"a": b"1"}
