"""`millrace models`: one file a command, imported when it is run."""

from __future__ import annotations

import click

from console.lazy import LazyGroup

__all__ = ["models"]

COMMANDS = {
    "list": ("console.models.listing:list_command", "The models that are here, and those that can be pulled."),
    "show": ("console.models.show:show", "What is known of a model: source, variants, what was measured."),
    "families": ("console.models.families:families", "What can be built."),
    "build": ("console.models.build:build", "Build a model from a folder, a hub's id, torchvision or an ONNX file."),
    "optimize": ("console.models.optimize:optimize", "Make INT8 and other variants, admitted by measurement."),
    "prune": ("console.models.prune:prune", "Take weights or neurons out of a model, and measure what that brings."),
    "pull": ("console.models.pull:pull", "Fetch and build the models that Millrace has recipes for."),
    "tune": ("console.models.tune:tune", "Measure the variants on this device, and serve the fastest."),
    "promote": ("console.models.promote:promote", "Have a name mean another version; running workers follow."),
    "remove": ("console.models.remove:remove", "Remove a version from the store."),
    "verify": ("console.models.verify:verify", "Check every file against its SHA-256."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
@click.pass_context
def models(ctx: click.Context) -> None:
    """Build, optimize, promote, inspect and verify models."""
    from pipeline.runtime.limit import runs_end_on_signals

    ctx.with_resource(runs_end_on_signals())
