"""`millrace demo`: real records through a real Kafka and real INT8 sessions, on one screen."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from agents.broker import EmbeddedBroker
from agents.clients import Report, Sender, Tailer
from agents.topics import create_topics, delete_topics
from console.arrivals import Arrivals
from console.cleanup import orderly_exit
from console.cluster import at
from console.digits import digit_samples
from console.models_needed import ensure_models
from console.output import Output, json_option
from console.photos import photo_samples
from console.progress import byte_progress
from console.samples import Sample, chat_samples, record_of, service_samples, spread
from console.scoreboard import Answered, Summary, summarise
from console.showcase import Cards, answer_block, plain_line, summary_block
from console.supervisor import Supervisor
from console.worker_process import WorkerProcess, worker_environ
from pipeline.errors import TransportError
from pipeline.settings import Settings, load_settings
from schemas.messages import Source

__all__ = ["demo"]

CROPS, DIGITS, TINY_DIGITS = 152, 120, 360
READY_TIMEOUT_S = 120.0
DELIVERY_TIMEOUT_S = 30.0
IDLE_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
MODELS = ("smollm2-135m", "efficientnet-lite0", "digits-tiny")
TINY_MODELS = ("dialogues-tiny", "digits-tiny")


@click.command()
@click.option("--tiny", is_flag=True, help="Only small models that come with Millrace; nothing else is fetched.")
@json_option
def demo(*, tiny: bool, as_json: bool) -> None:
    """Send prompts, photos and digits through Kafka, show the results as they arrive, then the figures.

    It brings a broker of its own (unless KAFKA_BOOTSTRAP_SERVERS names one) and a worker, and stops them again. Exit
    status 1 when a record has no outcome or one that is not ok.
    """
    output = Output(as_json=as_json)
    settings = _demo_settings(load_settings(), tiny=tiny)
    samples = _samples(tiny=tiny)
    if not tiny:
        ensure_models(settings, output)
    with orderly_exit() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="millrace-", ignore_cleanup_errors=True)))
        settings = stack.enter_context(_kafka(settings, folder, output))
        supervisor = _start_worker(settings, folder, stack, output)
        summary = run(settings, samples, supervisor, output)
        _conclude(summary, samples, output)
    if not summary.good:
        raise click.exceptions.Exit(1)


def run(settings: Settings, samples: Sequence[Sample], supervisor: Supervisor, output: Output) -> Summary:
    """Send the samples and gather their outcomes, showing each as it comes."""
    topics = [settings.kafka.prompt_results, settings.kafka.image_results]
    with Tailer.connect(settings, topics, start="beginning") as tailer:
        arrivals = Arrivals(tailer, supervisor.check_alive)
        sender = Sender.connect(settings, [settings.kafka.prompts, settings.kafka.images])
        sent = _send(sender, settings, samples, arrivals)
        answered = list(_watch(arrivals, sent, output))
    missing = [sent[source][0].name for source in arrivals.missing]
    return summarise(len(sent), answered, missing)


def _samples(*, tiny: bool) -> list[Sample]:
    if tiny:
        return spread(service_samples(), digit_samples(TINY_DIGITS))
    return spread(chat_samples(), photo_samples(CROPS), digit_samples(DIGITS))


def _demo_settings(settings: Settings, *, tiny: bool) -> Settings:
    """Fresh topics and a fresh group, so that a second run never sees the records of the first."""
    name = f"demo-{secrets.token_hex(4)}"
    kafka = msgspec.structs.replace(settings.kafka, topic_prefix=f"{name}.", group_id=name)
    models = msgspec.structs.replace(settings.models, serve=TINY_MODELS if tiny else MODELS)
    return msgspec.structs.replace(settings, kafka=kafka, models=models)


@contextmanager
def _kafka(settings: Settings, folder: Path, output: Output) -> Iterator[Settings]:
    """The demo's topics, on a broker of its own or the one that is named; they are gone afterwards."""
    if settings.kafka.bootstrap_servers:
        create_topics(settings)
        try:
            yield settings
        finally:
            delete_topics(settings)
        return
    broker = EmbeddedBroker(msgspec.structs.replace(settings.broker, data=str(folder / "broker")))
    with byte_progress(output, "Fetching Kafka, once") as progress, _waiting(output, "starting Kafka"):
        settings = at(settings, broker.start(progress, owned=True).bootstrap_servers)
    try:
        create_topics(settings)
        yield settings
    finally:
        broker.stop()


def _start_worker(settings: Settings, folder: Path, stack: ExitStack, output: Output) -> Supervisor:
    environ = worker_environ(settings, os.environ, workers=1)
    supervisor = Supervisor(1, lambda _: WorkerProcess(environ, folder / "worker.log"), say=lambda _: None)
    stack.callback(supervisor.stop, STOP_TIMEOUT_S)
    with _waiting(output, f"starting a worker with {', '.join(settings.models.serve)}"):
        supervisor.start()
        supervisor.wait_ready(READY_TIMEOUT_S)
    return supervisor


@contextmanager
def _waiting(output: Output, what: str) -> Iterator[None]:
    if output.interactive:
        with output.people.status(f"{what} ..."):
            yield
    else:
        output.say(f"{what} ...")
        yield


def _send(
    sender: Sender, settings: Settings, samples: Sequence[Sample], arrivals: Arrivals
) -> dict[Source, tuple[Sample, int]]:
    """Send all at once; the sample and timestamp of each record by its place. Raises TransportError for lost ones."""
    by_name = {sample.name: sample for sample in samples}
    sent: dict[Source, tuple[Sample, int]] = {}

    def note(report: Report) -> None:
        if report.source is not None:
            sent[report.source] = (by_name[report.record.name], report.timestamp_ms)
            arrivals.expect(report.source)

    for sample in samples:
        sender.send(record_of(sample, settings.kafka), note)
    left = sender.flush(DELIVERY_TIMEOUT_S)
    if left or sender.failures:
        reason = sender.failures[0].error if sender.failures else f"no report within {DELIVERY_TIMEOUT_S:g} s"
        raise TransportError(f"{left + len(sender.failures)} of {len(samples)} records were not delivered: {reason}")
    return sent


def _watch(arrivals: Arrivals, sent: dict[Source, tuple[Sample, int]], output: Output) -> Iterator[Answered]:
    cards = {
        "photos": Cards(output.people, min_columns=40, max_columns=52),
        "digits": Cards(output.people, min_columns=27, max_columns=27),
    }
    bar = Progress(
        SpinnerColumn(),
        TextColumn("outcomes"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=output.people,
        disable=not output.interactive,
        transient=True,
    )
    with bar:
        task = bar.add_task("outcomes", total=len(sent))
        for arrival in arrivals.until_all(IDLE_TIMEOUT_S):
            sample, sent_at_ms = sent[arrival.outcome.source]
            answer = Answered(sample=sample, sent_at_ms=sent_at_ms, arrival=arrival)
            _show(answer, cards, output)
            bar.advance(task)
            yield answer
        if output.interactive:
            for rows in cards.values():
                rows.flush()


def _show(answer: Answered, cards: Mapping[str, Cards], output: Output) -> None:
    if output.as_json:
        return
    if not output.interactive:
        output.people.print(plain_line(answer), soft_wrap=True)
    elif answer.sample.task == "text-generation":
        output.people.print(answer_block(answer))
    elif answer.sample.shown or answer.arrival.outcome.status != "ok":
        cards[answer.sample.kind].add(answer)


def _conclude(summary: Summary, samples: Sequence[Sample], output: Output) -> None:
    for name in summary.missing:
        output.warn(f"{name}: no outcome came")
    for name, message in summary.errors.items():
        output.warn(f"{name}: {message}")
    if output.as_json:
        output.document(summary)
        return
    counts = Counter(sample.kind for sample in samples)
    output.people.rule("summary", style="dim")
    output.people.print(summary_block(summary, [f"{count} {kind}" for kind, count in counts.items()]))
