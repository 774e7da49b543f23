"""The data of a record as the fields of a request body, by its declared media type or by what it looks like."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from schemas.envelopes import Envelope
from schemas.errors import DecodeError
from schemas.images import name_format, sniff_image
from schemas.validation import decode_json, decode_text, shorten

__all__ = ["Fields", "read_image", "read_prompt"]

_UNDECLARED = ("", "application/octet-stream")
_AS_TEXT = " To send it as a plain prompt, set the header content-type: text/plain."


class Fields(Struct, frozen=True, kw_only=True):
    """Fields of a request body by name, not yet checked; ``places`` as in ``convert``."""

    values: dict[str, Any]
    places: dict[str, str] = {}


def read_prompt(envelope: Envelope) -> Fields:
    """The fields of a prompt: a JSON object, or text, which is one message from the user.

    Raises:
        DecodeError: the data is an image, or is not what its media type says.
    """
    data, media = envelope.data, envelope.media_type
    if isinstance(data, dict):
        return Fields(values=data)
    if isinstance(data, str):
        return _prompt(data, envelope)
    data = data or b""
    if media.startswith("image/") or sniff_image(data):
        raise DecodeError("an image, on a topic of prompts. Send it to the topic of images.", where=envelope.data_place)
    if _is_json(media):
        return _object(data, envelope)
    if media in _UNDECLARED and _looks_like_object(data):
        return _object(data, envelope, hint=_AS_TEXT)
    if media in _UNDECLARED or media.startswith("text/"):
        return _prompt(decode_text(data, where=envelope.data_place), envelope)
    raise _unknown_media(envelope, "application/json or text/plain")


def read_image(envelope: Envelope) -> Fields:
    """The fields of an image request: a JSON object, or the image's own bytes.

    Raises:
        DecodeError: the data is text or in another image format, or is not what its media type says.
    """
    data, media = envelope.data, envelope.media_type
    if isinstance(data, dict):
        return Fields(values=_clean_image(data, envelope))
    if isinstance(data, str) or media.startswith("text/"):
        raise DecodeError("text, on a topic of images. Send it to the topic of prompts.", where=envelope.data_place)
    data = data or b""
    if sniff_image(data):
        return Fields(values={"image": data}, places={"image": envelope.data_place})
    if _is_json(media) or (media in _UNDECLARED and _looks_like_object(data)):
        fields = _object(data, envelope)
        return Fields(values=_clean_image(fields.values, envelope))
    if media in _UNDECLARED or media.startswith("image/"):
        raise DecodeError(f"not a JPEG, PNG or WebP image but {name_format(data)}.", where=envelope.data_place)
    raise _unknown_media(envelope, "image/jpeg, image/png, image/webp or application/json")


def _prompt(text: str, envelope: Envelope) -> Fields:
    """Text is what a person says, so it is one message of a chat; ``prompt``, to be continued as it is, needs JSON."""
    messages = [{"role": "user", "content": text}]
    return Fields(values={"messages": messages}, places={"messages": envelope.data_place})


def _object(data: bytes, envelope: Envelope, *, hint: str = "") -> Fields:
    value = decode_json(data, where=envelope.data_place, hint=hint)
    if not isinstance(value, dict):
        raise DecodeError(f"expected a JSON object, got {shorten(value)}.", where=envelope.data_place)
    return Fields(values=value)


def _is_json(media: str) -> bool:
    return media in {"application/json", "text/json"} or media.endswith("+json")


def _looks_like_object(data: bytes) -> bool:
    return data[:64].removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").startswith(b"{")


def _clean_image(values: dict[str, Any], envelope: Envelope) -> dict[str, Any]:
    """``values`` with ``image`` as bare base64: no data: URI around it, no line breaks in it."""
    image = values.get("image")
    if not isinstance(image, str):
        return values
    if image.startswith("data:"):
        head, comma, image = image.partition(",")
        if not comma or not head.endswith(";base64"):
            raise DecodeError(
                "image is a data: URI that is not base64. Write data:image/png;base64,...",
                where=f"{envelope.root}.image",
            )
    return {**values, "image": "".join(image.split())}


def _unknown_media(envelope: Envelope, accepted: str) -> DecodeError:
    return DecodeError(
        f"media type {envelope.media_type[:80]!r} is not accepted here. Use {accepted}.", where=envelope.media_place
    )
