"""`millrace models remove`."""

from __future__ import annotations

import click

from console.models.parameters import one_version, version_argument
from console.output import Output, json_option
from pipeline.models.promotion import remove as remove_version
from pipeline.settings import load_settings

__all__ = ["remove"]


@click.command()
@version_argument
@click.option("--force", is_flag=True, help="Remove it even if it is promoted.")
@json_option
def remove(spec: tuple[str, ...], *, force: bool, as_json: bool) -> None:
    """Remove a version from the store; NAME VERSION does as well. The promoted one needs --force; shipped ones stay."""
    settings, output = load_settings(), Output(as_json=as_json)
    name, version = one_version(spec)
    folder = remove_version(name, version, settings, force=force, say=output.say)
    output.say(f"{name}@{version} is removed")
    if as_json:
        output.document({"name": name, "version": version, "folder": str(folder)})
