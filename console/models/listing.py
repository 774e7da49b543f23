"""`millrace models list`."""

from __future__ import annotations

import textwrap

import click
from rich.table import Table

from console.models.describe import is_promoted, megabytes, spec_of, summary, with_figure
from console.output import Output, json_option
from pipeline.errors import ModelError
from pipeline.models.folders import list_folders, list_without_card
from pipeline.models.store import PULLABLE, ServedModel, read_folder
from pipeline.settings import Settings, load_settings

__all__ = ["list_command"]

TASK_WIDTH = 20


@click.command("list")
@json_option
def list_command(*, as_json: bool) -> None:
    """The models that are here, and those that can be pulled.

    The version marked with * is promoted: it is what the name alone means. Of one whose card cannot be read a warning
    says why.
    """
    settings, output = load_settings(), Output(as_json=as_json)
    folders, here, damaged = list_folders(settings), list[ServedModel](), list[dict[str, str]]()
    for folder in (*folders, *list_without_card(settings)):
        try:
            here.append(read_folder(folder))
        except ModelError as error:
            output.warn(str(error))
            damaged.append({"model": spec_of(folder), "folder": str(folder), "error": str(error)})
    missing = [name for name in PULLABLE if name not in {folder.parent.name for folder in folders}]
    if as_json:
        models = [summary(model, settings) for model in here]
        output.document({"models": models, "damaged": damaged, "pullable": missing})
        return
    output.people.print(_table(here, settings))
    for name in missing:
        output.say(f"{name} is not here yet: millrace models pull {name}")


def _table(models: list[ServedModel], settings: Settings) -> Table:
    """One line a variant; at 80 columns no name is broken, but for the longest task's, at a hyphen."""
    table = Table("model", "version", "task", "variants", "size", box=None, pad_edge=False)
    for column in (table.columns[0], table.columns[1], table.columns[4]):
        column.no_wrap = True
    for model in models:
        mark = " *" if is_promoted(model, settings) else ""
        variants = [with_figure(name, variant.measured) for name, variant in model.card.variants.items()]
        variants += [f"{name} rejected" for name in model.card.rejected]
        task = textwrap.fill(model.card.task, TASK_WIDTH)
        table.add_row(model.card.name, f"{model.card.version}{mark}", task, "\n".join(variants), megabytes(model))
    return table
