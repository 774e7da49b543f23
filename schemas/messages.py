"""What travels: requests, outcomes, streamed tokens and their parts, as frozen structs.

Field names follow OpenAI's API for text and CloudEvents for the envelope. Times of day are milliseconds since the Unix
epoch (``*_at_ms``); durations are milliseconds (``*_ms``).
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from msgspec import Meta, Struct

__all__ = [
    "Box",
    "ChatMessage",
    "ClassificationOutput",
    "DetectedObject",
    "DetectionOutput",
    "EmbeddingOutput",
    "GenerationOptions",
    "ImageInput",
    "InferenceRequest",
    "Label",
    "ModelInfo",
    "Outcome",
    "OutcomeError",
    "OutcomeStatus",
    "Output",
    "Role",
    "Source",
    "Task",
    "TextInput",
    "TextOutput",
    "Timings",
    "TokenPiece",
    "Usage",
    "outcome_id",
]

Task = Literal[
    "text-generation",
    "text-classification",
    "embeddings",
    "image-classification",
    "object-detection",
    "zero-shot-image-classification",
    "image-to-text",
]
OutcomeStatus = Literal["ok", "error", "expired"]
FinishReason = Literal["stop", "length"]
Role = Literal["system", "user", "assistant"]

MAX_MESSAGES = 256
MAX_TEXT_CHARS = 200_000
MAX_TOKENS = 8_192
MAX_STOPS = 8
MAX_STOP_CHARS = 128
MAX_LABELS = 1_000

ShortText = Annotated[str, Meta(min_length=1, max_length=256)]
TopK = Annotated[int, Meta(ge=1, le=MAX_LABELS)]


class Source(Struct, frozen=True, kw_only=True):
    """Where a record stands: it names the record for ever."""

    topic: str
    partition: Annotated[int, Meta(ge=0)]
    offset: Annotated[int, Meta(ge=0)]


class ChatMessage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One turn of a conversation."""

    role: Role
    content: Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]


class GenerationOptions(Struct, frozen=True, kw_only=True):
    """How an answer is generated, by any task that writes text.

    ``temperature`` 0 (the default here, unlike OpenAI's 1) takes the likeliest token each time and is deterministic.
    """

    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] = 128
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] = 0.0
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    stop: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)], ...], Meta(max_length=MAX_STOPS)
    ] = ()
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    stream: bool = False


class TextInput(GenerationOptions, frozen=True, kw_only=True, tag="text"):
    """A text, to be continued, classified or embedded. Exactly one of ``messages`` and ``prompt`` is set.

    ``top_k`` is how many labels come back of a classification; ``None`` takes the task's default.
    """

    messages: Annotated[tuple[ChatMessage, ...], Meta(max_length=MAX_MESSAGES)] = ()
    prompt: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARS)] | None = None
    top_k: TopK | None = None


class ImageInput(GenerationOptions, frozen=True, kw_only=True, tag="image"):
    """An encoded image (JPEG, PNG or WebP), or a reference to one kept elsewhere. Exactly one of them is set.

    Attributes:
        top_k: how many labels or objects come back at most; ``None`` takes the task's default.
        threshold: the least score of a detected object; ``None`` takes the model's.
        candidate_labels: what the image may show, for zero-shot classification.
        hypothesis_template: makes a text of each of them, ``{}`` being the label; ``None`` takes the model's.
        prompt: what is asked about the image, for image-to-text.
    """

    data: bytes = b""
    content_type: str = "application/octet-stream"
    dataref: Annotated[str, Meta(min_length=1, max_length=2_048)] | None = None
    top_k: TopK | None = None
    threshold: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    candidate_labels: Annotated[tuple[ShortText, ...], Meta(max_length=MAX_LABELS)] = ()
    hypothesis_template: (
        Annotated[str, Meta(max_length=256, extra_json_schema={"pattern": r"\{\}"})] | None  # image_input says why not
    ) = None
    prompt: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARS)] | None = None


class InferenceRequest(Struct, frozen=True, kw_only=True):
    """A decoded record.

    Attributes:
        id: the caller's id (CloudEvents ``id``), or ``topic/partition/offset`` when it gave none.
        source: the record this was decoded from.
        task: what to do with it; ``None`` takes the named model's own.
        input: the text or the image.
        key: the record's Kafka key, unchanged.
        model: the model's name; ``None`` takes the route's default.
        model_version: the model's version; ``None`` takes the served one.
        priority: higher runs first, 0 to 9.
        expires_at_ms: after this moment (CloudEvents ``expirytime``) the outcome is ``expired``.
        created_at_ms: the record's Kafka timestamp.
        traceparent: W3C trace context, carried through.
        parameters: anything else the caller wants carried; models may read it.
    """

    id: Annotated[str, Meta(min_length=1, max_length=1_024)]
    source: Source
    task: Task | None
    input: TextInput | ImageInput
    key: bytes | None = None
    model: ShortText | None = None
    model_version: ShortText | None = None
    priority: Annotated[int, Meta(ge=0, le=9)] = 4
    expires_at_ms: int | None = None
    created_at_ms: int = 0
    traceparent: Annotated[str, Meta(max_length=256)] | None = None
    parameters: dict[str, str | int | float | bool | None] = {}


class ModelInfo(Struct, frozen=True, kw_only=True):
    """Which model answered, down to the bytes. ``digest`` is the SHA-256 of the ONNX file, in hexadecimal."""

    name: str
    version: str
    digest: str
    precision: str
    provider: str


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens read and written, counted by the model's tokenizer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Timings(Struct, frozen=True, kw_only=True):
    """Where a record's time went, in milliseconds.

    ``queue_ms`` is all waiting (on the topic is not counted), ``prepare_ms`` tokenizing or decoding, ``run_ms`` the
    model, ``publish_ms`` from the end of the run until the outcome was handed to the producer.
    """

    queue_ms: float = 0.0
    prepare_ms: float = 0.0
    run_ms: float = 0.0
    publish_ms: float = 0.0


class TextOutput(Struct, frozen=True, kw_only=True, tag="text", tag_field="type"):
    """Generated text. ``finish_reason``: ``stop`` (end of text or a stop string) or ``length`` (``max_tokens``)."""

    text: str
    finish_reason: FinishReason


class Label(Struct, frozen=True, kw_only=True):
    """One class with its probability in [0, 1]."""

    label: str
    score: float


class ClassificationOutput(Struct, frozen=True, kw_only=True, tag="classification", tag_field="type"):
    """The likeliest classes, best first."""

    labels: tuple[Label, ...]


class EmbeddingOutput(Struct, frozen=True, kw_only=True, tag="embedding", tag_field="type"):
    """A vector of unit length: the cosine of two of them is their dot product."""

    embedding: tuple[float, ...]


class Box(Struct, frozen=True, kw_only=True):
    """A rectangle in pixels of the image as it was sent, turned upright (EXIF)."""

    xmin: float
    ymin: float
    xmax: float
    ymax: float


class DetectedObject(Struct, frozen=True, kw_only=True):
    """One object with its class, the probability of that in [0, 1], and where it is."""

    label: str
    score: float
    box: Box


class DetectionOutput(Struct, frozen=True, kw_only=True, tag="detection", tag_field="type"):
    """The objects found, likeliest first; there may be none."""

    objects: tuple[DetectedObject, ...]


Output = TextOutput | ClassificationOutput | EmbeddingOutput | DetectionOutput


class OutcomeError(Struct, frozen=True, kw_only=True):
    """Why there is no output: a code for programs, a message for people, the place in the record."""

    code: str
    message: str
    where: str
    stage: str


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one record: exactly one of these is published for each.

    ``id`` is a function of the source and the model's digest (:func:`outcome_id`), so a repeated outcome is
    recognisable. ``key`` is the record's key as text (``base64:...`` when it is not UTF-8). ``batch_size`` is how many
    records shared the run (for generation: the mean over its steps).
    """

    id: str
    status: OutcomeStatus
    request_id: str
    source: Source
    created_at_ms: int
    key: str | None = None
    model: ModelInfo | None = None
    output: Output | None = None
    usage: Usage | None = None
    error: OutcomeError | None = None
    timings: Timings = Timings()
    batch_size: float = 0.0
    traceparent: str | None = None


class TokenPiece(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A piece of a streamed answer. Pieces of one outcome are numbered from 0; the last one has a ``finish_reason``."""

    outcome_id: str
    request_id: str
    source: Source
    index: int
    text: str
    finish_reason: FinishReason | None = None


def outcome_id(source: Source, model_digest: str = "") -> str:
    """The id of the outcome of ``source`` under the model with ``model_digest``: 32 hexadecimal digits.

    Equal inputs give equal ids on every machine, so a consumer can drop repeats. Records that never reached a model
    use the empty digest.
    """
    name = f"{source.topic}\n{source.partition}\n{source.offset}\n{model_digest}"
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
