"""`millrace models promote`."""

from __future__ import annotations

import click

from console.models.parameters import one_version, version_argument
from console.output import Output, json_option
from pipeline.models.promotion import promote as promote_version
from pipeline.settings import load_settings

__all__ = ["promote"]


@click.command()
@version_argument
@json_option
def promote(spec: tuple[str, ...], *, as_json: bool) -> None:
    """Have NAME mean VERSION, after checking its files; NAME VERSION does as well.

    Running workers that serve NAME take it up within models.watch_interval_s, without dropping a record. To go back,
    promote the version before.
    """
    settings, output = load_settings(), Output(as_json=as_json)
    name, version = one_version(spec)
    model, before = promote_version(name, version, settings)
    output.say(
        f"{name} now means {model.spec}" + (f"; before, {name}@{before}" if before not in (None, version) else "")
    )
    if as_json:
        output.document({"name": name, "version": version, "before": before, "folder": str(model.folder)})
