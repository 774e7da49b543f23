from __future__ import annotations

import time

import pytest
from redis import Redis

from pipeline.errors import ResultStoreError, SettingsError
from pipeline.results.redis import RedisStore
from tests.redis_server import RedisServer
from tests.waiting import wait_until

TIMEOUT_S = 30.0
"""For one call, on a machine under load."""


def test_values_expire(redis_server: RedisServer) -> None:
    lasting, brief = (RedisStore(redis_server.url, keep_s=keep_s, timeout_s=TIMEOUT_S) for keep_s in (600, 0.2))
    lasting.put({b"a": b"1"})
    brief.put({b"b": b"2"})
    wait_until(lambda: not brief.get([b"b"]), "the value expires")
    assert lasting.get([b"a"])
    lasting.close()
    brief.close()


def test_a_redis_that_is_away_is_an_error_at_once_and_serves_again_when_it_is_back(redis_server: RedisServer) -> None:
    store = RedisStore(redis_server.url, keep_s=60, timeout_s=TIMEOUT_S)
    store.open()
    redis_server.stop()
    for call in (store.open, lambda: store.get([b"a"]), lambda: store.put({b"a": b"1"})):
        started = time.monotonic()
        with pytest.raises(ResultStoreError, match="look at Redis"):
            call()
        assert time.monotonic() - started < TIMEOUT_S
    redis_server.start()
    store.put({b"a": b"1"})
    assert store.get([b"a"])
    store.close()


def test_a_redis_without_memory_says_so(redis_server: RedisServer) -> None:
    with Redis.from_url(redis_server.url) as client:
        client.config_set("maxmemory", "1")
    store = RedisStore(redis_server.url, keep_s=60, timeout_s=TIMEOUT_S)
    with pytest.raises(ResultStoreError, match="maxmemory"):
        store.put({b"a": b"1"})
    assert not store.get([b"a"])
    store.close()


def test_its_name_has_no_password() -> None:
    store = RedisStore("redis://user:secret@cache:6380/2", keep_s=60, timeout_s=TIMEOUT_S)
    assert store.name == "redis at cache:6380"


def test_an_address_that_cannot_be_read_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsError, match=r"results\.store"):
        RedisStore("redis://cache:port/0", keep_s=60, timeout_s=TIMEOUT_S)
