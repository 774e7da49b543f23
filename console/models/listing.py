"""`millrace models list`."""

from __future__ import annotations

import click
from rich.table import Table

from console.models.describe import is_promoted, megabytes, summary, with_figure
from console.output import Output, json_option
from pipeline.models.store import PULLABLE, ServedModel, list_models
from pipeline.settings import Settings, load_settings

__all__ = ["list_command"]


@click.command("list")
@json_option
def list_command(*, as_json: bool) -> None:
    """The models that are here, and those that can be pulled.

    The version marked with * is promoted: it is what the name alone means.
    """
    settings, output = load_settings(), Output(as_json=as_json)
    here = list_models(settings)
    missing = [name for name in PULLABLE if name not in {model.card.name for model in here}]
    if as_json:
        output.document({"models": [summary(model, settings) for model in here], "pullable": missing})
        return
    output.people.print(_table(here, settings))
    for name in missing:
        output.say(f"{name} is not here yet: millrace models pull {name}")


def _table(models: list[ServedModel], settings: Settings) -> Table:
    table = Table("model", "version", "task", "variants", "size", box=None, pad_edge=False)
    for model in models:
        mark = " *" if is_promoted(model, settings) else ""
        variants = [with_figure(name, variant.measured) for name, variant in model.card.variants.items()]
        variants += [f"{name} rejected" for name in model.card.rejected]
        table.add_row(
            model.card.name, f"{model.card.version}{mark}", model.card.task, ", ".join(variants), megabytes(model)
        )
    return table
