"""What every store promises, held against each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.results.redis import RedisStore
from pipeline.results.sqlite import SqliteStore
from pipeline.results.store import MemoryStore, ResultStore
from tests.redis_server import RedisServer

MakeStore = Callable[[], ResultStore]


@pytest.fixture(params=["memory", "sqlite", "redis"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    """Opens the same store again and again."""
    if request.param == "memory":
        memory = MemoryStore()
        return lambda: memory
    if request.param == "sqlite":
        return lambda: SqliteStore(tmp_path / "results.db", keep_s=600, max_bytes=2**30, busy_s=30)
    server: RedisServer = request.getfixturevalue("redis_server")
    return lambda: RedisStore(server.url, keep_s=600, timeout_s=30)


@pytest.fixture
def store(make_store: MakeStore) -> Iterator[ResultStore]:
    store = make_store()
    store.open()
    yield store
    store.close()


def test_what_was_put_is_found_and_nothing_else(store: ResultStore) -> None:
    store.put({b"a" * 16: b"one", b"\x00\xff\n ": b"\x00\xff" * 500, b"c": b""})
    found = store.get([b"a" * 16, b"\x00\xff\n ", b"c", b"missing"])
    assert dict(found) == {b"a" * 16: b"one", b"\x00\xff\n ": b"\x00\xff" * 500, b"c": b""}


def test_the_first_value_of_a_key_stays(store: ResultStore) -> None:
    store.put({b"a": b"first"})
    store.put({b"a": b"second", b"b": b"new"})
    assert dict(store.get([b"a", b"b"])) == {b"a": b"first", b"b": b"new"}


def test_many_are_put_and_found_at_once(store: ResultStore) -> None:
    values = {f"key {i}".encode(): f"value {i}".encode() * 20 for i in range(2_000)}
    store.put(values)
    assert dict(store.get(list(values))) == values


def test_another_opener_of_the_same_store_finds_what_the_first_has_put(make_store: MakeStore) -> None:
    first, second = make_store(), make_store()
    first.open()
    second.open()
    first.put({b"a": b"one"})
    assert dict(second.get([b"a"])) == {b"a": b"one"}
    first.close()
    second.put({b"b": b"two"})
    second.close()
    third = make_store()
    assert dict(third.get([b"a", b"b"])) == {b"a": b"one", b"b": b"two"}
    third.close()


def test_closing_twice_does_no_harm(store: ResultStore) -> None:
    store.close()
    store.close()
