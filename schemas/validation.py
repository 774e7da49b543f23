"""Checked conversion of decoded values, with messages for people: what was expected, what came, the nearest name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

import msgspec

from schemas.errors import DecodeError, ValidationError
from schemas.messages import Role, Task

__all__ = ["check_names", "convert", "decode_json", "decode_text", "shorten"]

T = TypeVar("T")
_PATH = re.compile(r"^(?P<what>.*?)(?: - at (?P<key>`key` in )?`(?P<path>[^`]*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_MISSING = object()
# msgspec's message on a closed set of values does not say what the set is.
_CHOICES: dict[str, tuple[str, ...]] = {"task": get_args(Task), "role": get_args(Role)}


def shorten(value: object, limit: int = 80) -> str:
    """``value`` as Python shows it, cut to about ``limit`` characters without showing all of a large value first."""
    if isinstance(value, list | tuple | dict | set):
        return f"{len(value)} items"
    text = repr(value[:limit] if isinstance(value, str | bytes) else value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def decode_text(data: bytes, *, where: str) -> str:
    """UTF-8 to text; a leading byte order mark is dropped.

    Raises:
        DecodeError: the bytes are not UTF-8; the message names the byte.
    """
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise DecodeError(
            f"not valid UTF-8: byte {error.start} is 0x{byte:02x} ({error.reason}). Send text as UTF-8.", where=where
        ) from None


def decode_json(data: bytes, *, where: str, hint: str = "") -> Any:
    """JSON to plain Python values; ``hint`` is added to the message of an error.

    Raises:
        DecodeError: the bytes are not UTF-8 or not JSON, or are nested too deep.
    """
    text = decode_text(data, where=where)
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise DecodeError("JSON is nested too deep.", where=where) from None
    except (msgspec.MsgspecError, ValueError) as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        raise DecodeError(f"not JSON: {reason}.{hint}", where=where) from None


def check_names(names: Iterable[object], known: Iterable[str], *, places: Mapping[str, str], root: str) -> None:
    """Refuse a field that is not in ``known``, with the nearest known name.

    Raises:
        ValidationError: names the field, its place, and what was probably meant.
    """
    known = tuple(known)
    for name in names:
        if name in known:
            continue
        nearest = difflib.get_close_matches(str(name)[:64], known, n=1)
        hint = f"Did you mean {nearest[0]!r}?" if nearest else f"Known: {', '.join(known)}."
        raise ValidationError(
            f"unknown field {shorten(name)}. {hint}", where=places.get(str(name), f"{root}.{str(name)[:64]}")
        )


def convert(value: Mapping[str, Any], kind: type[T], *, places: Mapping[str, str], root: str) -> T:
    """``value`` as the struct ``kind``, every bound checked.

    Args:
        value: the fields by name.
        kind: a struct type.
        places: where a top-level field came from, when that is not ``root.<field>``.
        root: the JSON path of ``value`` in the record, such as ``$`` or ``$.data``.

    Raises:
        ValidationError: says what was expected, what came and where.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _explain(str(error), value, places=places, root=root) from None
    except RecursionError:
        raise ValidationError("the value is nested too deep.", where=root) from None


def _explain(text: str, value: Mapping[str, Any], *, places: Mapping[str, str], root: str) -> ValidationError:
    match = _PATH.match(text)
    what, path = (match["what"], match["path"] or "$") if match else (text, "$")
    field = re.match(r"\$\.(\w+)", path)
    name = field[1] if field else ""
    where = places.get(name) or root + path.removeprefix("$")
    # Without the field's name a message that is shown alone ("Expected `int` >= 1") says too little.
    label = path.removeprefix("$.") if name else "value"
    got = _lookup(value, path)
    what = what[:1].lower() + what[1:] + _known_choices(what, path)
    if got is _MISSING or "got `" in what or "'" in what or (match and match["key"]):
        return ValidationError(f"{label}: {what}.", where=where)
    return ValidationError(f"{label}: {what}, got {shorten(got)}.", where=where)


def _known_choices(what: str, path: str) -> str:
    choices = _CHOICES.get(path.rpartition(".")[2], ()) if what.startswith("Invalid enum value") else ()
    return f"; known: {', '.join(choices)}" if choices else ""


def _lookup(value: Any, path: str) -> Any:
    """The value at a msgspec path, or ``_MISSING`` where the path is not exact (``[...]``) or names a mapping."""
    if "[...]" in path or path == "$":
        return _MISSING
    for step in _STEP.finditer(path):
        try:
            value = value[step[1]] if step[1] else value[int(step[2])]
        except (KeyError, IndexError, TypeError):
            return _MISSING
    return _MISSING if isinstance(value, dict) else value
