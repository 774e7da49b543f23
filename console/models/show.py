"""`millrace models show`."""

from __future__ import annotations

import click
import msgspec
from rich.table import Table

from console.models.describe import figures, is_promoted, megabytes
from console.output import Output, json_option, printable
from pipeline.models.card import ModelCard
from pipeline.models.store import ServedModel, read_model
from pipeline.settings import Settings, load_settings

__all__ = ["show", "variant_table"]


@click.command()
@click.argument("name", metavar="NAME[@VERSION]")
@json_option
def show(name: str, *, as_json: bool) -> None:
    """What the card of a model says: source, licence, variants and what was measured.

    Variants that failed their gate are shown with what failed; they are not served.
    """
    settings, output = load_settings(), Output(as_json=as_json)
    model = read_model(name, settings)
    if as_json:
        promoted = is_promoted(model, settings)
        output.document({**msgspec.to_builtins(model.card), "folder": str(model.folder), "promoted": promoted})
        return
    for key, value in _lines(model, settings):
        output.say(f"{key:<12}{printable(value)}")
    output.people.print(variant_table(model.card))
    for key, variant in model.card.variants.items():
        output.say(f"{key:<12}sha256 {variant.digest}")


def variant_table(card: ModelCard) -> Table:
    """The variants of a model, and those that were rejected, with their figures."""
    table = Table("variant", "", "how it was made", "measured against fp32", box=None, pad_edge=False)
    for name, variant in card.variants.items():
        table.add_row(name, "admitted", printable(variant.method), figures(variant.measured))
    for name, rejected in card.rejected.items():
        how = f"{printable(rejected.method)}: {printable(rejected.reason)}"
        table.add_row(name, "[red]rejected[/red]", how, figures(rejected.measured))
    return table


def _lines(model: ServedModel, settings: Settings) -> list[tuple[str, str]]:
    card = model.card
    promoted = f"{model.spec}, promoted" if is_promoted(model, settings) else model.spec
    rows = [("model", promoted), ("task", ", ".join(card.tasks)), ("about", card.description)]
    rows += [("license", card.license), ("source", card.source), ("folder", str(model.folder))]
    rows += [("size", megabytes(model))]
    return rows + ([("measured", figures(card.measured))] if card.measured else [])
