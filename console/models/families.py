"""`millrace models families`."""

from __future__ import annotations

import click
from rich.table import Table

from console.output import Output, json_option

__all__ = ["families"]


@click.command()
@json_option
def families(*, as_json: bool) -> None:
    """What can be built: the families, their tasks, and what config.json calls their models (architectures)."""
    from pipeline.factory.families import list_families

    output, found = Output(as_json=as_json), list(list_families())
    if as_json:
        fields = ("name", "tasks", "architectures")
        output.document({"families": [{name: getattr(family, name) for name in fields} for family in found]})
        return
    table = Table("family", "tasks", "architectures", box=None, pad_edge=False)
    for family in found:
        table.add_row(family.name, "\n".join(family.tasks), "\n".join(family.architectures))
    output.people.print(table)
