"""What bad input gets, through the real broker and a real worker: an error that says what and where, a dead letter with
the original bytes, and the next record is served."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import pytest

from pipeline.settings import KafkaSettings, Settings
from tests.records import grey_pixel_png, produce, read, read_outcomes
from tests.workers import StartWorker

pytestmark = pytest.mark.integration

JSON = {"content-type": b"application/json"}
Case = tuple[bytes | None, dict[str, bytes], str, str]

BAD_PROMPTS: dict[str, Case] = {
    "not JSON": (b"no JSON at all", JSON, "value", "JSON"),
    "cut JSON": (b'{"prompt": "hel', {}, "value", "JSON"),
    "an empty value": (b"", {}, "value", "empty"),
    "a null value": (None, {}, "value", "null"),
    "an unknown model": (b'{"prompt": "hi", "model": "gpt-9"}', {}, "model", "gpt-9"),
    "negative max_tokens": (b'{"prompt": "hi", "max_tokens": -5}', {}, "$.max_tokens", "1"),
    "invalid UTF-8": (b"caf\xe9 \xff", {}, "value", "UTF-8"),
    "an image": (grey_pixel_png(), {}, "value", "topic of images"),
}


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be so large, with next to nothing in it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(header) + _chunk(b"IDAT" + zlib.compress(bytes(1_000)))


def _chunk(body: bytes) -> bytes:
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def jpeg() -> bytes:
    """A photo, for cutting short."""
    import io

    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(7).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


BAD_IMAGES: dict[str, Case] = {
    "not an image": (b"GIF89a and so on", {}, "value", "JPEG, PNG or WebP"),
    "a truncated JPEG": (jpeg()[:900], {}, "value", "truncated"),
    "a value of 30 MB": (bytes(30_000_000), {}, "value", "30,000,000"),
    "an empty value": (b"", {}, "value", "empty"),
    "a null value": (None, {}, "value", "null"),
    "an unknown model": (grey_pixel_png(), {"model": b"resnet-9000"}, "model", "resnet-9000"),
    "a PNG header of 100,000 x 100,000 pixels": (png_header(100_000, 100_000), {}, "value", "100000 x 100000"),
    "a line of text": (b"what is in this picture?", {}, "value", "JPEG, PNG or WebP"),
}


@pytest.mark.parametrize("topic", ["prompts", "images"])
def test_each_bad_record_gets_an_error_and_a_dead_letter_and_the_next_one_is_served(
    topic: str, start_worker: StartWorker, kafka_settings: KafkaSettings
) -> None:
    start_worker()
    cases = BAD_PROMPTS if topic == "prompts" else BAD_IMAGES
    good = b'{"prompt": "Hello", "max_tokens": 4}' if topic == "prompts" else grey_pixel_png()
    settings = Settings(kafka=kafka_settings)
    source = getattr(kafka_settings, topic)
    results = kafka_settings.prompt_results if topic == "prompts" else kafka_settings.image_results
    for name, (value, headers, _, _) in cases.items():
        produce(settings, source, [(name, value)], headers)
        produce(settings, source, [(f"after {name}", good)])

    found = {outcome["key"]: outcome for outcome in read_outcomes(settings, results, 2 * len(cases), timeout_s=60)}
    letters = {message.key().decode(): message for message in read(settings, kafka_settings.dead_letters, len(cases))}
    assert len(found) == 2 * len(cases)
    assert set(letters) == set(cases)
    for name, case in cases.items():
        check_error(name, case, found[name])
        check_letter(name, case, letters[name], source)
        assert found[f"after {name}"]["status"] == "ok", found[f"after {name}"]


def check_error(name: str, case: Case, outcome: dict[str, Any]) -> None:
    _, _, where, said = case
    assert outcome["status"] == "error", (name, outcome)
    assert where in outcome["error"]["where"], (name, outcome["error"])
    assert said in outcome["error"]["message"], (name, outcome["error"])


def check_letter(name: str, case: Case, letter: Any, source: str) -> None:
    value, sent, _, _ = case
    assert letter.value() == value, name
    headers = dict(letter.headers())
    assert sent.items() <= headers.items(), name
    assert headers["__connect.errors.topic"].decode() == source
    assert headers["__connect.errors.exception.message"], name
