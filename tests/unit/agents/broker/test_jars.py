from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest

from agents.broker import jars
from agents.broker.fetching import FakeFetcher
from agents.broker.jars import Jar, ensure_jars, pinned_jars
from pipeline.errors import BrokerError

CONTENTS = {"org.example:one:1.0": b"first" * 100, "org.example:two:2.0": b"second" * 200}


def pin(coordinate: str, content: bytes) -> Jar:
    return Jar(coordinate=coordinate, sha256=hashlib.sha256(content).hexdigest(), size=len(content))


PINNED = [pin(coordinate, content) for coordinate, content in CONTENTS.items()]


@pytest.fixture(autouse=True)
def retry_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jars, "RETRY_AFTER_S", 0.0)


def test_an_empty_cache_is_filled_with_every_pinned_jar(tmp_path: Path) -> None:
    fetcher = FakeFetcher(CONTENTS)
    found = ensure_jars(tmp_path / "kafka", fetcher, jars=PINNED)
    assert [file.read_bytes() for file in found] == list(CONTENTS.values())
    assert sorted(fetcher.fetched) == sorted(CONTENTS)


def test_a_complete_cache_is_neither_fetched_nor_written_to(tmp_path: Path) -> None:
    ensure_jars(tmp_path, FakeFetcher(CONTENTS), jars=PINNED)
    before = tmp_path.stat().st_mtime_ns
    fetcher = FakeFetcher({})
    ensure_jars(tmp_path, fetcher, jars=PINNED)
    assert fetcher.fetched == []
    assert tmp_path.stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", [b"", b"first", b"FIRST" * 100], ids=["empty", "cut short", "same size"])
def test_a_damaged_jar_and_it_alone_is_fetched_again(tmp_path: Path, damage: bytes) -> None:
    first, _ = ensure_jars(tmp_path, FakeFetcher(CONTENTS), jars=PINNED)
    first.write_bytes(damage)
    fetcher = FakeFetcher(CONTENTS)
    ensure_jars(tmp_path, fetcher, jars=PINNED)
    assert fetcher.fetched == ["org.example:one:1.0"]
    assert first.read_bytes() == CONTENTS["org.example:one:1.0"]


def test_a_jar_with_another_sha256_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=r"org\.example:one:1\.0 arrived with another SHA-256"):
        ensure_jars(tmp_path, FakeFetcher({**CONTENTS, "org.example:one:1.0": b"evil"}), jars=PINNED)
    assert not (tmp_path / "one-1.0.jar").exists()


def test_without_a_network_the_error_names_the_ways_out(tmp_path: Path) -> None:
    fetcher = FakeFetcher(dict.fromkeys(CONTENTS, OSError("name resolution failed")))
    with pytest.raises(BrokerError, match="name resolution failed") as caught:
        ensure_jars(tmp_path, fetcher, jars=PINNED)
    assert "KAFKA_BOOTSTRAP_SERVERS" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_passing_network_error_is_tried_again(tmp_path: Path) -> None:
    class Flaky(FakeFetcher):
        def fetch(self, coordinate: str, folder: Path) -> Path:
            if self.fetched.count(coordinate) < 2:
                self.fetched.append(coordinate)
                raise OSError("connection reset")
            return super().fetch(coordinate, folder)

    assert all(file.exists() for file in ensure_jars(tmp_path, Flaky(CONTENTS), jars=PINNED))


def test_what_arrived_before_a_failure_is_kept(tmp_path: Path) -> None:
    fetcher = FakeFetcher({**CONTENTS, "org.example:two:2.0": OSError("cable cut")})
    with pytest.raises(BrokerError):
        ensure_jars(tmp_path, fetcher, jars=PINNED)
    later = FakeFetcher(CONTENTS)
    ensure_jars(tmp_path, later, jars=PINNED)
    assert later.fetched == ["org.example:two:2.0"]


def test_a_disk_that_fills_up_is_told_apart_from_the_network_and_not_retried(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    fetcher = FakeFetcher(dict.fromkeys(CONTENTS, full))
    with pytest.raises(BrokerError, match=r"No space left on device.*XDG_CACHE_HOME"):
        ensure_jars(tmp_path, fetcher, jars=PINNED)
    assert len(fetcher.fetched) <= len(CONTENTS)


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_fetched(tmp_path: Path) -> None:
    huge = Jar(coordinate="org.example:huge:1.0", sha256="0" * 64, size=2**62)
    fetcher = FakeFetcher({})
    with pytest.raises(BrokerError, match="no space left"):
        ensure_jars(tmp_path, fetcher, jars=[huge])
    assert fetcher.fetched == []


def test_a_cache_that_cannot_be_made_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BrokerError, match="file"):
        ensure_jars(tmp_path / "file" / "kafka", FakeFetcher(CONTENTS), jars=PINNED)


def test_progress_rises_to_the_total_and_counts_what_was_there(tmp_path: Path) -> None:
    first, _ = ensure_jars(tmp_path, FakeFetcher(CONTENTS), jars=PINNED)
    first.unlink()
    seen: list[tuple[int, int]] = []
    ensure_jars(tmp_path, FakeFetcher(CONTENTS), lambda done, total: seen.append((done, total)), jars=PINNED)
    assert seen == [(1700, 1700)]


def test_two_that_fetch_at_once_fetch_each_jar_once(tmp_path: Path) -> None:
    fetcher = FakeFetcher(CONTENTS)
    threads = [threading.Thread(target=ensure_jars, args=(tmp_path, fetcher), kwargs={"jars": PINNED}) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fetcher.fetched) == sorted(CONTENTS)


def test_nothing_but_the_jars_and_the_lock_is_left_in_the_cache(tmp_path: Path) -> None:
    ensure_jars(tmp_path, FakeFetcher(CONTENTS), jars=PINNED)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", "one-1.0.jar", "two-2.0.jar"]


def test_the_pinned_list_is_whole() -> None:
    pinned = pinned_jars()
    versions = {jar.coordinate.split(":")[1]: jar.coordinate.split(":")[2] for jar in pinned}
    assert versions["kafka_2.13"] == jars.KAFKA_VERSION
    assert versions["log4j-slf4j-impl"] == versions["log4j-core"]
    assert len({jar.filename for jar in pinned}) == len(pinned) == 46
    assert all(len(bytes.fromhex(jar.sha256)) == 32 and jar.size > 0 for jar in pinned)
