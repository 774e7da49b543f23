"""Samples for calibration and evaluation: from folders, JSONL files, or stretches of Kafka topics."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from console.output import Output
from pipeline.errors import ModelError
from pipeline.models.store import ServedModel
from schemas.messages import Task
from schemas.tasks import TASKS, Kind

if TYPE_CHECKING:
    from pipeline.factory.samples import Sample

__all__ = ["find_evaluation", "find_samples", "load_samples", "samples_for"]


def find_samples(
    model: ServedModel,
    calibration: Sequence[str],
    evaluation: Sequence[str],
    output: Output,
    progress: Callable[[str], None],
) -> tuple[list[Sample], list[Sample]]:
    """Samples to calibrate on, and others to measure on.

    Where only one of them is given, every second of its samples is for calibration and the others for measuring; where
    neither is, Millrace's own photos and sentences are taken.

    Args:
        model: what reads them.
        calibration: sources as :func:`load_samples` takes them.
        evaluation: likewise.
        output: told where the samples come from.
        progress: told what is going on.

    Raises:
        ModelError: samples cannot be read, or one that is shared out has a label that the model does not have.
        TransportError: a stretch cannot be read, or holds nothing.
    """
    from pipeline.factory.gates.labels import check_answers

    if not calibration and not evaluation:
        return _own_samples(model, output, progress, "--calibration", "--evaluation")
    ranges, measured = (samples_for(model, texts, output) for texts in (calibration, evaluation))
    if calibration and evaluation:
        return ranges, measured
    given = ranges or measured
    if len(given) < 2:
        raise ModelError("one sample is not enough: some are for calibration and others for evaluation. Give more.")
    check_answers(model, given)  # all of them, though the half for calibration needs none: they are one set
    output.say(f"{len(given)} samples: every second one is for calibration, the others are for evaluation")
    return given[::2], given[1::2]


def find_evaluation(
    model: ServedModel, evaluation: Sequence[str], output: Output, progress: Callable[[str], None]
) -> list[Sample]:
    """Samples to measure on alone: those that are named, or Millrace's own. Raises as :func:`find_samples` does."""
    return samples_for(model, evaluation, output) or _own_samples(model, output, progress, "--evaluation")[1]


def samples_for(model: ServedModel, texts: Sequence[str], output: Output) -> list[Sample]:
    """As :func:`load_samples`; raises ModelError, too, for a sample of a kind that ``model`` does not read."""
    from pipeline.factory.samples import check_kinds

    found = load_samples(texts, model.card.task, output)
    check_kinds(found, model)
    return found


def load_samples(texts: Sequence[str], task: Task, output: Output) -> list[Sample]:
    """What ``texts`` name: folders, JSONL files, and ``kafka:TOPIC[/PARTITION][:FROM-TO]``.

    Args:
        texts: as on the command line.
        task: of the model: its topic's kind decides how records are decoded.
        output: told how many records were passed over.

    Raises:
        ModelError: the files cannot be read.
        TransportError: the stretch cannot be read, or holds nothing.
    """
    from agents.stretch import PREFIX
    from pipeline.factory.samples import read_samples

    found = []
    for text in texts:
        kafka = text.startswith(PREFIX)
        found += _from_kafka(text, task, output) if kafka else read_samples(Path(text).expanduser())
    return found


def _own_samples(
    model: ServedModel, output: Output, progress: Callable[[str], None], *options: str
) -> tuple[list[Sample], list[Sample]]:
    """Millrace's own; ``options`` are those by which the command takes others."""
    from pipeline.factory.samples_default import default_samples

    if model.card.task == "image-to-text":
        raise ModelError(
            f"model {model.spec}: there are no images with questions here to measure it on. Give some: "
            f"{options[0]} FILE with lines of image, prompt and answer."
        )
    output.say(f"measured on Millrace's own photos and sentences; give yours with {' and '.join(options)}")
    with tempfile.TemporaryDirectory(prefix="millrace-samples-") as scratch:
        return default_samples(model, Path(scratch), progress)


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
