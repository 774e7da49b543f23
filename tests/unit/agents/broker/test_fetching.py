from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agents.broker.fetching import FakeFetcher, JarFetcher, JgoFetcher
from pipeline.errors import BrokerError

COORDINATE = "org.example:thing:1.0"
CONTENT = b"PK not really a jar"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Maven repository on loopback that jgo is told to use instead of its own, holding one jar."""
    folder = tmp_path / "repository" / "org" / "example" / "thing" / "1.0"
    folder.mkdir(parents=True)
    (folder / "thing-1.0.jar").write_bytes(CONTENT)
    (folder / "thing-1.0.jar.sha1").write_text(hashlib.sha1(CONTENT).hexdigest())  # noqa: S324
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "repository")))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    config = tmp_path / "jgo.conf"
    config.write_text(f"[repositories]\ncentral = http://127.0.0.1:{server.server_port}\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(config))
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(params=["jgo", "fake"])
def fetcher(request: pytest.FixtureRequest, repository: Path) -> JarFetcher:
    return JgoFetcher() if request.param == "jgo" else FakeFetcher({COORDINATE: CONTENT})


def test_a_jar_is_put_under_the_folder(fetcher: JarFetcher, tmp_path: Path) -> None:
    file = fetcher.fetch(COORDINATE, tmp_path / "here")
    assert file.is_relative_to(tmp_path / "here")
    assert file.read_bytes() == CONTENT


def test_an_unknown_coordinate_is_an_os_error_that_names_it(fetcher: JarFetcher, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"org\.example:other:2\.0"):
        fetcher.fetch("org.example:other:2.0", tmp_path / "here")


def test_jgo_without_a_network_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "jgo.conf"
    config.write_text("[repositories]\ncentral = http://127.0.0.1:1\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(config))
    with pytest.raises(OSError, match="refused"):
        JgoFetcher().fetch(COORDINATE, tmp_path)


def test_without_jgo_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jgo.maven", None)
    with pytest.raises(BrokerError, match=r"pip install '\.\[broker\]' in its folder"):
        JgoFetcher().fetch(COORDINATE, tmp_path)
