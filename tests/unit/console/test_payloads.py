from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from console.payloads import Payload, PayloadError, ask_about, read_images, read_prompts
from schemas.codecs import Decoder
from schemas.messages import ImageInput
from schemas.records import RawRecord


def test_a_text_file_is_a_prompt_a_line_without_the_empty_ones(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\n\n  two  \n" + "你好".encode())
    assert list(read_prompts((file,))) == [
        Payload(name=f"{file}:1", value=b"one"),
        Payload(name=f"{file}:3", value=b"two"),
        Payload(name=f"{file}:4", value="你好".encode()),
    ]


def test_json_lines_are_sent_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    assert [payload.value for payload in read_prompts((file,))] == [b'{"prompt": "a"}', b'{"prompt": "b"}']


def test_a_json_file_is_one_request_or_a_list_of_them(tmp_path: Path) -> None:
    one, many = tmp_path / "one.json", tmp_path / "many.json"
    one.write_text('{\n  "prompt": "a"\n}')
    many.write_text('["plain", {"prompt": "b"}]')
    assert [payload.value for payload in read_prompts((one, many))] == [
        b'{"prompt": "a"}',
        b"plain",
        b'{"prompt": "b"}',
    ]


def test_a_broken_json_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    file.write_text("{")
    with pytest.raises(PayloadError, match=r"one\.json: not JSON.*\.jsonl"):
        list(read_prompts((file,)))


def test_standard_input_is_lines_of_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"a\nb\n")))
    assert [payload.name for payload in read_prompts((Path("-"),))] == ["standard input:1", "standard input:2"]


def test_standard_input_is_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"\x89PNG\n...")))
    assert list(read_images((Path("-"),))) == [Payload(name="standard input", value=b"\x89PNG\n...")]


def test_a_folder_of_images_is_searched_recursively_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "sub/c.webp", "notes.txt"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(name.encode())
    assert [payload.value for payload in read_images((tmp_path,))] == [b"a.JPG", b"b.png", b"sub/c.webp"]


def test_a_named_file_is_sent_whatever_its_suffix(tmp_path: Path) -> None:
    file = tmp_path / "picture"
    file.write_bytes(b"bytes")
    assert [payload.value for payload in read_images((file,))] == [b"bytes"]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PayloadError, match=r"no file in this folder ends with \.jpg"):
        list(read_images((tmp_path,)))


def test_a_picture_is_not_sent_as_lines_of_text(tmp_path: Path) -> None:
    picture = tmp_path / "cat.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    with pytest.raises(PayloadError, match="send images"):
        list(read_prompts((picture,)))


def test_what_is_asked_about_an_image_is_sent_along_with_it(png: bytes) -> None:
    fields = {"candidate_labels": ("é", "b"), "threshold": 0.5}
    payload = ask_about(Payload(name="a.png", value=png), fields)
    request = Decoder("images", max_bytes=10_000).decode(
        RawRecord(topic="t", partition=0, offset=0, value=payload.value)
    )
    assert isinstance(request.input, ImageInput)
    assert (request.input.data, request.input.candidate_labels, request.input.threshold) == (png, ("é", "b"), 0.5)
