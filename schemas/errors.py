"""Errors that concern one record.

A :class:`RecordError` is the record's own fault: it is never retried. The record gets an ``error`` outcome that carries
:attr:`RecordError.code` and the message, and a dead letter with the original bytes; the next record is served.

Tree::

    RecordError            anything wrong with one record
      DecodeError          the bytes are not a request (stage "admit")
      ValidationError      a decoded request breaks a rule or a bound (stage "admit")
      PrepareError         the payload cannot be made into model input (stage "prepare")
      ModelNotFoundError   no such model, version or task is served here (stage "prepare")
      InferenceError       the model failed on this record alone (stage "run")
    RegistryError          the schema registry cannot be asked; no record's fault, so retry and commit nothing
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from schemas.messages import ModelInfo

__all__ = [
    "DecodeError",
    "InferenceError",
    "ModelNotFoundError",
    "PrepareError",
    "RecordError",
    "RegistryError",
    "ValidationError",
]


class RecordError(Exception):
    """One record cannot be served, and trying again would not help.

    Args:
        message: what was wrong and what to do, for the person who sent the record.
        where: the place in the record: a header, a JSON path such as ``$.max_tokens``, or ``value``.

    Attributes:
        request_id: the caller's id, when it could be read before the rest turned out wrong.
        traceparent: the caller's trace, likewise.
        model: the model that failed on the record; the error's outcome then has the id that the answer would have had.
    """

    code: ClassVar[str] = "record_error"
    stage: ClassVar[str] = "admit"

    def __init__(self, message: str, *, where: str = "value") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.request_id: str | None = None
        self.traceparent: str | None = None
        self.model: ModelInfo | None = None


class DecodeError(RecordError):
    """The bytes cannot be decoded as any of the accepted encodings."""

    code = "decode_error"


class ValidationError(RecordError):
    """A field is missing, of the wrong type, or out of its bounds."""

    code = "validation_error"


class PrepareError(RecordError):
    """The prompt or image cannot be turned into model input."""

    code = "prepare_error"
    stage = "prepare"


class ModelNotFoundError(RecordError):
    """The request names a model, version or task that this worker does not serve."""

    code = "model_not_found"
    stage = "prepare"


class InferenceError(RecordError):
    """The model failed on this record although its batch mates were served."""

    code = "inference_error"
    stage = "run"


class RegistryError(Exception):
    """The schema registry cannot be reached or refuses us: the record may be fine, so it must be tried again."""
