"""Records for the tests of the codecs."""

import base64
from collections.abc import Mapping
from typing import Any

from schemas.codecs import Decoder
from schemas.errors import RecordError
from schemas.messages import ImageInput, InferenceRequest, TextInput
from schemas.records import RawRecord
from schemas.registry import RegistryDecoder

MAX_BYTES = 20 * 1024 * 1024
PNG = b"\x89PNG\r\n\x1a\n" + b"rest of the picture"
JPEG = b"\xff\xd8\xff\xe0" + b"rest of the picture"
WEBP = b"RIFF\x10\x00\x00\x00WEBPVP8 " + b"rest"
PNG_BASE64 = base64.b64encode(PNG).decode()
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

Headers = Mapping[str, bytes | None]
EVENT: dict[str, bytes | None] = {"ce_specversion": b"1.0", "ce_id": b"e-1", "ce_source": b"/shop", "ce_type": b"ask"}


def record(value: bytes | None, headers: Headers | None = None, *, topic: str = "inference.prompts") -> RawRecord:
    return RawRecord(
        topic=topic,
        partition=2,
        offset=7,
        timestamp_ms=1_700_000_000_000,
        key=b"k",
        value=value,
        headers=tuple((headers or {}).items()),
    )


def decode_prompt(
    value: bytes | None, headers: Headers | None = None, registry: RegistryDecoder | None = None
) -> InferenceRequest:
    decoder = Decoder("prompts", registry=registry, max_bytes=MAX_BYTES)
    return decoder.decode(record(value, headers))


def decode_image(
    value: bytes | None, headers: Headers | None = None, registry: RegistryDecoder | None = None
) -> InferenceRequest:
    decoder = Decoder("images", registry=registry, max_bytes=MAX_BYTES)
    return decoder.decode(record(value, headers, topic="inference.images"))


def said(request: InferenceRequest) -> str:
    """The one message of a request that was sent as plain text."""
    (message,) = text(request).messages
    assert message.role == "user"
    return message.content


def text(request: InferenceRequest) -> TextInput:
    assert isinstance(request.input, TextInput)
    return request.input


def image(request: InferenceRequest) -> ImageInput:
    assert isinstance(request.input, ImageInput)
    return request.input


def refusal(decode: Any, *arguments: Any) -> RecordError:
    """The error that decoding raises; the test fails when it raises none."""
    try:
        request = decode(*arguments)
    except RecordError as error:
        return error
    raise AssertionError(f"decoded instead of refused: {request}")
