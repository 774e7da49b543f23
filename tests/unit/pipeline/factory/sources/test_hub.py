"""The hub's client against a small hub of our own, and without any."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from pipeline.errors import ModelError
from pipeline.factory.sources.hub import download

COMMIT = "c0ffee" + "0" * 34
FILES = {
    "config.json": b"{}",
    "model.safetensors": bytes(3_000_000),
    "tokenizer.json": b"{}",
    "1_Pooling/config.json": b"{}",
    "README.md": b"---\nlicense: mit\n---\n",
    "pytorch_model.bin": b"a pickle",
    "modeling_mine.py": b"code",
    "tokenizer.py": b"code",
    "onnx/model.onnx": b"a graph",
}
REFUSALS = {"org/gated": (403, "GatedRepo"), "org/missing": (401, "RepoNotFound")}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP API as a snapshot needs."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        repository = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if repository in REFUSALS:
            status, code = REFUSALS[repository]
            self._send(status, b"{}", {"X-Error-Code": code})
        elif parts[0] == "api" and parts[-1] not in {"main", COMMIT}:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif parts[0] == "api":
            files = [{"rfilename": name} for name in FILES]
            self._send(200, json.dumps({"id": repository, "sha": COMMIT, "siblings": files}).encode(), {})
        else:
            data = FILES["/".join(parts[4:])]
            tag = f'"{hashlib.sha256(data).hexdigest()}"'
            self._send(200, data, {"ETag": tag, "X-Repo-Commit": COMMIT})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield
    server.shutdown()
    server.server_close()


def refusal(repository: str, revision: str | None = None) -> str:
    with pytest.raises(ModelError) as caught:
        download(repository, revision, lambda _: None)
    return str(caught.value)


def test_only_data_is_fetched_and_the_folder_is_named_after_the_commit(
    hub: None, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    folder = download("org/model", None, said.append)
    assert folder.name == COMMIT
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json", "README.md"}
    assert said[0] == "fetching org/model from the Hugging Face hub"
    assert said[-1] == "fetched 3 of 3 MB"
    assert capfd.readouterr() == ("", "")


def test_what_the_hub_refuses_is_said_plainly(hub: None) -> None:
    assert "its owner asks for consent" in refusal("org/gated")
    assert "the hub has no such model, or it is private" in refusal("org/missing")
    assert "the hub has no revision 'v9'" in refusal("org/model", "v9")
    assert "not an id of the hub" in refusal("org/--bad--")


def test_a_hub_that_cannot_be_reached_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    message = refusal("org/model")
    assert message.startswith("hf:org/model: the hub at http://127.0.0.1:9 does not give it: ")
    assert "Connection refused" in message
    assert "bring the model's folder here" in message


def test_a_model_that_is_in_the_cache_is_found_without_the_hub(
    hub: None, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = download("org/model", None, lambda _: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert download("org/model", None, lambda _: None) == folder
    message = refusal("org/other")
    assert "HF_HUB_OFFLINE=1" in message
    assert str(cache) in message


def test_a_cache_that_cannot_be_written_is_named(hub: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    assert f"it cannot be kept in {tmp_path / 'file'}: Not a directory. HF_HOME" in refusal("org/model")
