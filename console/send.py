"""`millrace send`: prompts and images, as records on the input topics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, get_args

import click
import msgspec

from agents.clients import NewRecord, RecordTooLargeError, Report, Sender, Tailer
from console.arrivals import Arrival, Arrivals
from console.cluster import connected_settings
from console.output import Output, json_option
from console.payloads import Payload, PayloadError, ask_about, read_images, read_prompts
from console.render import outcome_line
from pipeline.settings import Settings
from schemas.messages import Outcome, Task

__all__ = ["send"]

Kind = Literal["prompts", "images"]


class SendOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the records carry besides their value, and whether to wait."""

    key: str | None = None
    task: str | None = None
    model: str | None = None
    priority: int | None = None
    repeat: int = 1
    wait: bool = False
    timeout_s: float = 60.0

    @property
    def headers(self) -> tuple[tuple[str, bytes], ...]:
        """The options that travel as headers."""
        named = {"task": self.task, "model": self.model, "priority": self.priority}
        return tuple((name, str(value).encode()) for name, value in named.items() if value is not None)


class SendResult(msgspec.Struct, kw_only=True):
    """What became of all that was to be sent; the document of ``send --json``."""

    topic: str
    sent: int = 0
    refused: list[str] = []
    failed: list[str] = []
    missing: int = 0
    outcomes: list[Outcome] = []

    @property
    def complete(self) -> bool:
        """Whether there was something to send, and all of it was sent and, if waited for, answered well."""
        well = all(outcome.status == "ok" for outcome in self.outcomes)
        return self.sent > 0 and well and not (self.refused or self.failed or self.missing)


@click.command(epilog="Example: echo 'Write a haiku about rivers.' | millrace send prompts - --wait")
@click.argument("kind", type=click.Choice(["prompts", "images"]))
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, allow_dash=True, path_type=Path))
@click.option("--key", help="Key of every record; outcomes of one key keep their order.")
@click.option("--task", type=click.Choice(get_args(Task)), help="What to do, instead of the topic's default.")
@click.option("--model", help="Model to answer; without --task it does what it is for.")
@click.option("--priority", type=click.IntRange(0, 9), help="0 to 9; higher runs first.")
@click.option("--label", "labels", multiple=True, help="What an image may show (zero-shot); once for each label.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="The least score of an object found in an image.")
@click.option("--prompt", help="What to ask about an image (image-to-text).")
@click.option("--repeat", type=click.IntRange(min=1), default=1, show_default=True, help="Send everything N times.")
@click.option("--wait", is_flag=True, help="Wait for the outcomes and print them; fail if one is not ok.")
@click.option("--timeout", "timeout_s", default=60.0, show_default=True, help="Seconds to wait for the next outcome.")
@json_option
def send(
    kind: Kind,
    paths: tuple[Path, ...],
    labels: tuple[str, ...],
    threshold: float | None,
    prompt: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Send prompts (a line each, JSON lines, or .json) or images (files and folders). '-' is standard input."""
    output, chosen = Output(as_json=as_json), SendOptions(**options)
    asked = _asked(kind, {"candidate_labels": labels, "threshold": threshold, "prompt": prompt})
    settings = connected_settings()
    topic = settings.kafka.prompts if kind == "prompts" else settings.kafka.images
    payloads = read_prompts(paths) if kind == "prompts" else read_images(paths)
    if asked:
        payloads = (ask_about(payload, asked) for payload in payloads)
    with ExitStack() as stack:
        sender = Sender.connect(settings, [topic])
        arrivals = Arrivals(stack.enter_context(_results(kind, settings))) if chosen.wait else None
        result = send_all(sender, topic, payloads, chosen, arrivals, output)
    _conclude(result, output)
    if not result.complete:
        raise click.exceptions.Exit(1)


def _asked(kind: Kind, fields: dict[str, Any]) -> dict[str, Any]:
    """What is asked about every image: those of ``fields`` that are set. Raises UsageError for prompts."""
    asked = {name: value for name, value in fields.items() if value not in (None, ())}
    if asked and kind == "prompts":
        raise click.UsageError("--label, --threshold and --prompt are about images. Send images, or leave them out.")
    return asked


def send_all(
    sender: Sender,
    topic: str,
    payloads: Iterable[Payload],
    options: SendOptions,
    arrivals: Arrivals | None,
    output: Output,
) -> SendResult:
    """Send each payload ``repeat`` times, wait for the delivery reports and, with ``arrivals``, for the outcomes."""
    result = SendResult(topic=topic)

    def note(report: Report) -> None:
        if report.source is None:
            result.failed.append(f"{report.record.name}: {report.error}")
        elif arrivals is not None:
            arrivals.expect(report.source)

    try:
        for record in _records(topic, payloads, options):
            _send_one(sender, record, note, result, output)
    except PayloadError as error:
        result.refused.append(str(error))
        output.warn(f"not sent: {error}")
    undelivered = sender.flush(options.timeout_s)
    if undelivered:
        result.failed.append(f"{undelivered} records: no delivery report within {options.timeout_s:g} s")
    result.sent = sender.delivered
    if arrivals is not None:
        _await(arrivals, result, options, output)
    return result


def _send_one(
    sender: Sender, record: NewRecord, note: Callable[[Report], None], result: SendResult, output: Output
) -> None:
    try:
        sender.send(record, note)
    except RecordTooLargeError as error:
        result.refused.append(str(error))
        output.warn(f"not sent: {error}")


def _records(topic: str, payloads: Iterable[Payload], options: SendOptions) -> Iterator[NewRecord]:
    key = options.key.encode() if options.key is not None else None
    for payload in payloads:
        record = NewRecord(topic=topic, value=payload.value, key=key, headers=options.headers, name=payload.name)
        yield from (record for _ in range(options.repeat))


def _results(kind: Kind, settings: Settings) -> Tailer:
    topic = settings.kafka.prompt_results if kind == "prompts" else settings.kafka.image_results
    return Tailer.connect(settings, [topic], start="end")


def _await(arrivals: Arrivals, result: SendResult, options: SendOptions, output: Output) -> None:
    for arrival in arrivals.until_all(options.timeout_s):
        result.outcomes.append(arrival.outcome)
        if not output.as_json:
            _show(arrival, output)
    result.missing = len(arrivals.missing)


def _show(arrival: Arrival, output: Output) -> None:
    output.people.print(outcome_line(arrival.outcome), soft_wrap=True)


def _conclude(result: SendResult, output: Output) -> None:
    if not (result.sent or result.refused or result.failed):
        output.warn("nothing to send: the input is empty")
    for failure in result.failed:
        output.warn(f"not delivered: {failure}")
    if result.missing:
        output.warn(f"{result.missing} records have no outcome yet. Is a worker running? `millrace status` says.")
    if output.as_json:
        output.document(result)
        return
    output.say(f"{result.sent:,} {'record' if result.sent == 1 else 'records'} on {result.topic}.")
