"""`millrace tail results`: the outcomes as they come."""

from __future__ import annotations

from collections.abc import Iterator

import click

from agents.clients import Tailer
from console.arrivals import Arrival, read_outcome
from console.cluster import connected_settings
from console.output import Output, json_option
from console.render import outcome_line
from pipeline.errors import TransportError

__all__ = ["last", "tail"]


@click.command()
@click.argument("what", type=click.Choice(["results"]))
@click.option("--from-beginning", is_flag=True, help="Start with the oldest outcome there is.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=10, show_default=True, help="Start with the last N.")
@click.option("--follow/--no-follow", "-f", default=True, show_default=True, help="Go on with new ones, or stop.")
@json_option
def tail(what: str, from_beginning: bool, lines: int, follow: bool, as_json: bool) -> None:  # noqa: ARG001
    """Print the outcomes of prompts and images, the last few first, then new ones as they come. Ctrl-C ends it."""
    output = Output(as_json=as_json)
    settings = connected_settings()
    topics = [settings.kafka.prompt_results, settings.kafka.image_results]
    with Tailer.connect(settings, topics, start="beginning" if from_beginning else "end") as tailer:
        try:
            if not from_beginning and lines:
                _print_all(last(tailer, lines, output), output)
            _print_all(_outcomes(tailer, output, follow=follow), output)
        except KeyboardInterrupt:
            pass  # how a tail is ended


def last(tailer: Tailer, count: int, output: Output) -> list[Arrival]:
    """The ``count`` newest outcomes, oldest first; the tailer then stands at the end."""
    tailer.rewind(count)
    found = sorted(_outcomes(tailer, output, follow=False), key=lambda arrival: arrival.timestamp_ms)
    return found[-count:]


def _outcomes(tailer: Tailer, output: Output, *, follow: bool) -> Iterator[Arrival]:
    """Outcomes until the end, or for ever. Records that are no outcome are named and passed over."""
    while True:
        done = tailer.caught_up()
        records = tailer.read(0.2)
        for record in records:
            try:
                yield read_outcome(record)
            except TransportError as error:
                output.warn(str(error))
        if done and not records and not follow:
            return


def _print_all(arrivals: list[Arrival] | Iterator[Arrival], output: Output) -> None:
    for arrival in arrivals:
        if output.as_json:
            output.line(arrival.outcome)
        else:
            output.people.print(outcome_line(arrival.outcome), soft_wrap=True)
