"""The records of a chaos run: what is sent, and what its outcome must be. Every record says it itself, in a header.

So the checker needs nothing but the topics: the header names the kind, the value tells the answer.
"""

from __future__ import annotations

import io
import json
import math
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

from PIL import Image

from pipeline.settings import KafkaSettings

__all__ = [
    "KIND",
    "POISON_PIXEL",
    "POISON_TOKEN",
    "NewRecord",
    "draw_record",
    "expected_errors",
    "expected_output",
    "is_poison",
]

KIND = "chaos-kind"
POISON_TOKEN = ord("~")
"""A decoding step that holds this token fails: the whole batch, until the culprit stands alone."""
POISON_PIXEL = 255
"""Likewise for a batch of images, one of which begins with this value."""
KEYS = 200
CLASSES = 10
TOP_K = 5
ERRORS = {
    "poison-bytes": frozenset({"decode_error", "validation_error"}),
    "poison-image-bytes": frozenset({"prepare_error"}),
}
DEADLINE_S = 3.0

Header = tuple[str, str | bytes | None]


class NewRecord(NamedTuple):
    """A record to send."""

    kind: str
    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[Header]


def draw_record(number: int, draw: random.Random, kafka: KafkaSettings) -> NewRecord:
    """Record ``number`` of the run. Two thirds have a key; about one in fifty is poison."""
    kind = draw.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    value, headers = KINDS[kind][1](number, draw)
    key = f"key-{draw.randrange(KEYS)}".encode() if draw.random() < 2 / 3 else None
    topic = kafka.images if "image" in kind else kafka.prompts
    return NewRecord(kind, topic, key, value, [(KIND, kind.encode()), *headers])


def is_poison(kind: str) -> bool:
    """Whether records of ``kind`` can never be served."""
    return kind.startswith("poison")


def expected_errors(kind: str) -> frozenset[str]:
    """The codes that a record of ``kind`` may fail with; a good one only with those of a failing session."""
    return ERRORS.get(kind, frozenset({"inference_error"}))


def expected_output(kind: str, value: bytes | None) -> dict[str, Any] | None:
    """The output that answers a record; ``None`` for poison."""
    if is_poison(kind) or value is None:
        return None
    if kind == "image":
        with Image.open(io.BytesIO(value)) as image:
            return {"type": "classification", "labels": _labels(int(image.tobytes()[0]) % CLASSES)}
    text = str(json.loads(value)["prompt"]) if value.startswith(b"{") else value.decode()
    return {"type": "text", "text": text, "finish_reason": "stop"}


def _labels(best: int) -> list[dict[str, Any]]:
    """The softmax of 1 for one class and 0 for the others; these follow in their own order."""
    order = [best, *(label for label in range(CLASSES) if label != best)][:TOP_K]
    total = math.e + CLASSES - 1
    return [{"label": str(label), "score": (math.e if label == best else 1) / total} for label in order]


Made = tuple[bytes | None, list[Header]]


def _prompt(number: int, draw: random.Random) -> Made:
    return f"p{number:x}".encode(), []


def _json_prompt(number: int, draw: random.Random) -> Made:
    return json.dumps({"prompt": f"j{number:x}", "max_tokens": 16}).encode(), []


def _streamed(number: int, draw: random.Random) -> Made:
    return json.dumps({"prompt": f"s{number:x}", "stream": True}).encode(), []


def _deadline(number: int, draw: random.Random) -> Made:
    moment = datetime.fromtimestamp(time.time() + DEADLINE_S, UTC)
    return f"d{number:x}".encode(), [("expirytime", moment.isoformat().encode())]


def _image(number: int, draw: random.Random) -> Made:
    return png(draw.randrange(POISON_PIXEL)), []


def _poison_bytes(number: int, draw: random.Random) -> Made:
    return draw.choice([b"", None, b"\xff\xfe" + draw.randbytes(6), b'{"prompt": ', b'{"prompt": "a", "top_p": 7}']), []


def _poison_prompt(number: int, draw: random.Random) -> Made:
    return f"p{number:x}~".encode(), []


def _poison_image_bytes(number: int, draw: random.Random) -> Made:
    return png(draw.randrange(POISON_PIXEL))[:30] + draw.randbytes(8), []


def _poison_image(number: int, draw: random.Random) -> Made:
    return png(POISON_PIXEL), []


KINDS: dict[str, tuple[float, Callable[[int, random.Random], Made]]] = {
    "prompt": (42, _prompt),
    "prompt-json": (16, _json_prompt),
    "prompt-streamed": (1, _streamed),
    "prompt-deadline": (3, _deadline),
    "image": (36, _image),
    "poison-bytes": (0.5, _poison_bytes),
    "poison-prompt": (0.5, _poison_prompt),
    "poison-image-bytes": (0.5, _poison_image_bytes),
    "poison-image": (0.5, _poison_image),
}
"""By kind: how often (relative to the others), and how its value and headers are made."""


@cache
def png(grey: int) -> bytes:
    """An image of 8 x 8 pixels of this value."""
    stream = io.BytesIO()
    Image.new("L", (8, 8), grey).save(stream, "PNG")
    return stream.getvalue()
