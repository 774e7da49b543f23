"""`millrace models prune`."""

from __future__ import annotations

from typing import Literal

import click

from console.models.describe import megabytes, summary
from console.models.parameters import SAMPLES
from console.models.samples import find_evaluation
from console.models.show import variant_tables
from console.output import Output, json_option
from console.progress import step_progress
from pipeline.models.store import read_model
from pipeline.settings import load_settings

__all__ = ["prune"]


@click.command(epilog="Example: millrace models prune my-model --kind structured --amount 0.25 --evaluation photos/")
@click.argument("name", metavar="NAME[@VERSION]")
@click.option("--kind", type=click.Choice(["magnitude", "structured"]), required=True, help="What is taken out.")
@click.option("--amount", type=click.FloatRange(0, 1, min_open=True, max_open=True), required=True, help="Its share.")
@click.option("--version", help="Of the pruned model; otherwise the next whole number.")
@click.option("--evaluation", multiple=True, type=SAMPLES, help="What it is measured on, before and after.")
@json_option
def prune(
    name: str,
    *,
    kind: Literal["magnitude", "structured"],
    amount: float,
    version: str | None,
    evaluation: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make a version of a model with a part of it taken out, and measure what that costs and brings.

    magnitude sets the smallest weights to zero: the file packs better, and nothing is faster, for ONNX Runtime
    multiplies by zeros too. structured removes whole neurons and channels, which is faster. Nothing is trained again.
    """
    from pipeline.factory.pruning.prune import prune as prune_version

    settings, output = load_settings(), Output(as_json=as_json)
    model = read_model(name, settings)
    with step_progress(output, model.spec) as step:
        samples = find_evaluation(model, evaluation, output, step)
        pruned = prune_version(
            model,
            kind=kind,
            amount=amount,
            version=version,
            evaluation=samples,
            settings=settings,
            progress=step,
        )
    if as_json:
        output.document(summary(pruned, settings))
        return
    for table in variant_tables(pruned.card):
        output.people.print(table)
    output.say(f"{pruned.spec} is made, {megabytes(pruned)}: millrace models optimize {pruned.spec} makes INT8 of it")
