"""`millrace models show`."""

from __future__ import annotations

from collections.abc import Mapping

import click
import msgspec
from rich.table import Table

from console.models.describe import figures, is_promoted, megabytes
from console.output import Output, json_option, printable
from pipeline.models.card import ModelCard, Rejected, Variant, VariantName
from pipeline.models.store import ServedModel, read_model
from pipeline.settings import Settings, load_settings

__all__ = ["show", "variant_tables"]


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
    for table in variant_tables(model.card):
        output.people.print(table)
    for key, variant in model.card.variants.items():
        output.say(f"{key:<12}sha256 {variant.digest}")


def variant_tables(card: ModelCard) -> tuple[Table, Table]:
    """How the variants of a model were made, those that were rejected too; and what was measured of each."""
    made = Table("variant", "", "how it was made", box=None, pad_edge=False)
    for name, variant in card.variants.items():
        made.add_row(name, "admitted", printable(variant.method))
    for name, rejected in card.rejected.items():
        made.add_row(name, "[red]rejected[/red]", f"{printable(rejected.method)}: {printable(rejected.reason)}")
    return made, _figures({**card.variants, **card.rejected})


def _figures(variants: Mapping[VariantName, Variant | Rejected]) -> Table:
    table = Table("measured", *variants, box=None, pad_edge=False)
    for name in dict.fromkeys(name for variant in variants.values() for name in variant.measured):
        values = (variant.measured.get(name) for variant in variants.values())
        table.add_row(printable(name), *("" if value is None else f"{value:.6g}" for value in values))
    return table


def _lines(model: ServedModel, settings: Settings) -> list[tuple[str, str]]:
    card = model.card
    promoted = f"{model.spec}, promoted" if is_promoted(model, settings) else model.spec
    rows = [("model", promoted), ("task", ", ".join(card.tasks)), ("about", card.description)]
    rows += [("license", card.license), ("source", card.source), ("folder", str(model.folder))]
    rows += [("size", megabytes(model))]
    return rows + ([("measured", figures(card.measured))] if card.measured else [])
