"""`millrace models remove`."""

from __future__ import annotations

import click

from console.output import Output, json_option
from pipeline.models.promotion import remove as remove_version
from pipeline.models.store import split_spec
from pipeline.settings import load_settings

__all__ = ["remove"]


@click.command()
@click.argument("spec", metavar="NAME@VERSION")
@click.option("--force", is_flag=True, help="Remove it even if it is promoted.")
@json_option
def remove(spec: str, *, force: bool, as_json: bool) -> None:
    """Remove a version from the store. The promoted one needs --force; shipped ones stay."""
    settings, output = load_settings(), Output(as_json=as_json)
    name, version = split_spec(spec)
    if version is None:
        raise click.UsageError(f"say which version: {name}@VERSION. `millrace models list` shows them.")
    folder = remove_version(name, version, settings, force=force, say=output.say)
    output.say(f"{spec} is removed")
    if as_json:
        output.document({"name": name, "version": version, "folder": str(folder)})
