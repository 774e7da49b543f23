"""Samples for calibration and evaluation: from a folder, a JSONL file, or a stretch of a Kafka topic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from console.output import Output
from pipeline.errors import ModelError
from schemas.messages import Task
from schemas.tasks import TASKS, Kind

if TYPE_CHECKING:
    from pipeline.factory.samples import Sample

__all__ = ["load_samples"]


def load_samples(text: str, task: Task, output: Output) -> list[Sample]:
    """What ``text`` names: a path, or ``kafka:TOPIC[/PARTITION][:FROM-TO]``.

    Args:
        text: as on the command line.
        task: of the model: its topic's kind decides how records are decoded.
        output: told how many records were passed over.

    Raises:
        ModelError: the files cannot be read.
        TransportError: the stretch cannot be read, or holds nothing.
    """
    from agents.stretch import PREFIX
    from pipeline.factory.samples import read_samples

    return _from_kafka(text, task, output) if text.startswith(PREFIX) else read_samples(Path(text).expanduser())


def _from_kafka(text: str, task: Task, output: Output) -> list[Sample]:
    from agents.clients import Tailer
    from agents.registry import open_registry
    from agents.stretch import parse_stretch, read_stretch
    from console.cluster import connected_settings
    from pipeline.factory.samples import sample_of
    from schemas.codecs import Decoder

    stretch, settings = parse_stretch(text), connected_settings()
    kind: Kind = "prompts" if task in TASKS["prompts"] else "images"
    decoder = Decoder(kind, registry=open_registry(settings), max_bytes=settings.kafka.max_message_bytes)
    with Tailer.connect(settings, [stretch.topic]) as tailer:
        read = read_stretch(stretch, tailer, decoder)
    samples, wrong = [], [read.first_error] * read.skipped
    for request in read.requests:
        try:
            samples.append(sample_of(request))
        except ModelError as error:
            wrong.append(str(error))
    output.say(f"{text}: {len(samples)} samples" + (f", {len(wrong)} records passed over" if wrong else ""))
    if wrong:
        output.warn(f"passed over, for example: {wrong[0]}")
    return samples
