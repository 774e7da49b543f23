"""`millrace models tune`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec
from rich.table import Table

from console.models.parameters import SAMPLES
from console.models.samples import samples_for
from console.output import Output, json_option
from console.progress import step_progress
from pipeline.models.profile import Point, profile_path
from pipeline.models.store import find_model
from pipeline.settings import load_settings

if TYPE_CHECKING:
    from pipeline.factory.tuning.tune import Tuning

__all__ = ["tune"]


@click.command()
@click.argument("name", metavar="NAME[@VERSION]")
@click.option("--samples", multiple=True, type=SAMPLES, help="What it is measured on.")
@click.option("--seconds", type=click.FloatRange(min=0.01), default=0.3, show_default=True, help="For each figure.")
@json_option
def tune(name: str, *, samples: tuple[str, ...], seconds: float, as_json: bool) -> None:
    """Measure the variants of a model on this device, by threads and batch size, and serve the fastest from then on.

    Workers read the result when they start. Let nothing else run meanwhile; without samples, blank inputs are measured.
    """
    from pipeline.factory.tuning.tune import tune as tune_model

    settings, output = load_settings(), Output(as_json=as_json)
    model = find_model(name, settings)
    with step_progress(output, model.spec) as step:
        found = samples_for(model, samples, output)
        tuning = tune_model(model, settings, samples=found, seconds=seconds, progress=step)
    path = profile_path(settings.models.store_path, model.card, tuning.profile.device)
    if as_json:
        output.document({**msgspec.to_builtins(tuning), "file": str(path)})
        return
    output.people.print(_table(tuning, decodes=model.card.text is not None))
    for variant, reason in tuning.skipped.items():
        output.say(f"{variant} was not measured: {reason}")
    choice, bound = tuning.choice, "slots" if model.card.text is not None else "records a batch"
    how = f"as {choice.variant} with {choice.threads} threads and at most {choice.max_batch_size} {bound}"
    output.say(f"{model.spec} runs {how}; workers that start from now on")


def _table(tuning: Tuning, *, decodes: bool) -> Table:
    unit = "tokens/s" if decodes else "records/s"
    table = Table("variant", "threads", "batch", unit, *(["prefill tokens/s"] if decodes else []), box=None)
    best = max((p for p in tuning.profile.points if _chosen(p, tuning)), key=lambda p: p.per_second, default=None)
    for point in tuning.profile.points:
        mark = " *" if point is best else ""
        row = [point.variant, str(point.threads), str(point.batch_size), f"{point.per_second:,.1f}{mark}"]
        prefill = f"{point.prefill_per_second:,.0f}" if point.prefill_per_second else ""
        table.add_row(*row, *([prefill] if decodes else []))
    return table


def _chosen(point: Point, tuning: Tuning) -> bool:
    return (point.variant, point.threads) == (tuning.choice.variant, tuning.choice.threads)
