from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline.errors import SettingsError
from pipeline.results.choose import find_store
from pipeline.settings import ResultSettings


def test_no_store_is_the_default() -> None:
    assert find_store(ResultSettings()) is None


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("sqlite:/var/lib/r.db", "sqlite:/var/lib/r.db"),
        ("sqlite:r.db", "sqlite:r.db"),
        ("sqlite:~/r.db", f"sqlite:{Path.home()}/r.db"),
        ("redis://cache:6379/1", "redis at cache:6379"),
        ("rediss://cache", "redis at cache:6379"),
        ("unix:///run/redis.sock", "redis at /run/redis.sock"),
    ],
)
def test_a_store_is_found_by_its_scheme(written: str, name: str) -> None:
    store = find_store(ResultSettings(store=written))
    assert store is not None
    assert store.name == name


@pytest.mark.parametrize("written", ["memcached://cache", "sqlite", "sqlite:", "/var/lib/r.db"])
def test_any_other_is_refused_with_those_there_are(written: str) -> None:
    with pytest.raises(SettingsError, match=r"no kind of store.*sqlite:/path.*redis://host:port/0"):
        find_store(ResultSettings(store=written))


def test_redis_without_its_package_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pipeline.results.redis", raising=False)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(SettingsError, match=r"pip install '\.\[redis\]' in its folder"):
        find_store(ResultSettings(store="redis://cache"))
