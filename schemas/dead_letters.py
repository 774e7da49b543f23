"""Dead letters: the record unchanged, and why it failed in headers that tools for Kafka Connect's dead letters read.

Names: KIP-298, ``org.apache.kafka.connect.runtime.errors.DeadLetterQueueReporter``. The values are text in UTF-8.
"""

from __future__ import annotations

import traceback

import msgspec
from msgspec import Struct, field

from schemas.errors import RecordError
from schemas.records import Header, RawLetter, RawRecord

__all__ = ["PREFIX", "DeadLetterHeaders", "dead_letter"]

PREFIX = "__connect.errors."
CONNECTOR = "millrace"
MAX_MESSAGE_CHARS = 2_000
MAX_STACKTRACE_CHARS = 8_000


class DeadLetterHeaders(Struct, frozen=True, kw_only=True):
    """The headers that are added to a dead letter.

    ``stage`` is the step that failed (``admit``, ``prepare``, ``run``), ``class_name`` the module that found the fault,
    ``task_id`` the worker. The message begins with the place in the record.
    """

    topic: str = field(name=f"{PREFIX}topic")
    partition: str = field(name=f"{PREFIX}partition")
    offset: str = field(name=f"{PREFIX}offset")
    connector: str = field(name=f"{PREFIX}connector.name")
    task_id: str = field(name=f"{PREFIX}task.id")
    stage: str = field(name=f"{PREFIX}stage")
    class_name: str = field(name=f"{PREFIX}class.name")
    exception_class: str = field(name=f"{PREFIX}exception.class.name")
    exception_message: str = field(name=f"{PREFIX}exception.message")
    exception_stacktrace: str = field(name=f"{PREFIX}exception.stacktrace")


def dead_letter(record: RawRecord, error: RecordError, worker: str) -> RawLetter:
    """The dead letter of ``record``.

    Headers of an earlier failure (a dead letter that was replayed and failed again) give way to this one's.
    """
    kept = tuple(header for header in record.headers if not header[0].startswith(PREFIX))
    return RawLetter(key=record.key, value=record.value, headers=kept + _encode(_describe(record, error, worker)))


def _describe(record: RawRecord, error: RecordError, worker: str) -> DeadLetterHeaders:
    kind = type(error)
    trace = "".join(traceback.format_exception(error))
    return DeadLetterHeaders(
        topic=record.topic,
        partition=str(record.partition),
        offset=str(record.offset),
        connector=CONNECTOR,
        task_id=worker,
        stage=error.stage,
        class_name=_raised_in(error),
        exception_class=f"{kind.__module__}.{kind.__qualname__}",
        exception_message=f"{error.where}: {error.message}"[:MAX_MESSAGE_CHARS],
        exception_stacktrace=trace[-MAX_STACKTRACE_CHARS:],
    )


def _raised_in(error: RecordError) -> str:
    """The module that raised ``error``, or its own when it was never raised."""
    module = type(error).__module__
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", module))
    return module


def _encode(headers: DeadLetterHeaders) -> tuple[Header, ...]:
    return tuple((name, text.encode("utf-8", errors="replace")) for name, text in msgspec.to_builtins(headers).items())
