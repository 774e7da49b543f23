"""`millrace models build`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import click

from console.models.describe import megabytes, say_if_waiting, summary
from console.models.optimize import OptimizeOptions, optimize_model, optimize_options
from console.models.parameters import NUMBERS, SIZE
from console.output import Output, json_option
from console.progress import step_progress
from pipeline.models.store import ServedModel
from pipeline.settings import Settings, load_settings
from schemas.messages import Task

__all__ = ["build"]

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    epilog="Examples: millrace models build sentence-transformers/all-MiniLM-L6-v2; millrace models build "
    "torchvision:resnet50 --checkpoint resnet50.pth; millrace models build net.onnx --labels names.txt --mean 0 --std 1"
)
@click.argument("source")
@click.option("--name", help="In the store; otherwise made of SOURCE.")
@click.option("--version", help="Otherwise the next whole number.")
@click.option("--task", type=click.Choice(get_args(Task)), help="Where the model can be built for several.")
@click.option("--revision", help="Branch, tag or commit of the hub; otherwise the newest.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights for torchvision:NAME.")
@click.option("--labels", type=FILE, help="What the classes are called, one a line.")
@click.option("--tokenizer", type=FILE, help="A tokenizer.json, where it is not beside the model.")
@click.option("--size", type=SIZE, help="Of the images, where the model takes any.")
@click.option("--mean", type=NUMBERS, help="Taken from the pixels, which are in [0, 1]; one number or one a channel.")
@click.option("--std", type=NUMBERS, help="What the pixels are then divided by.")
@click.option("--force", is_flag=True, help="Replace the version if it is there.")
@optimize_options
@json_option
def build(source: str, *, name: str | None, version: str | None, force: bool, as_json: bool, **options: Any) -> int:
    """Build a model: FP32 graphs and a card, tried out before they are put into the store.

    SOURCE is a folder with config.json and *.safetensors, hf:ORG/NAME or ORG/NAME (fetched from the Hugging Face hub),
    torchvision:NAME, or an .onnx file. No code that comes with a model is run, and a pickle is read only as the
    checkpoint of a torchvision network, by a reader that knows tensors alone.

    With --variant (or samples) it is optimized too, as `millrace models optimize` does: see its help.
    """
    settings, output = load_settings(), Output(as_json=as_json)
    optimizing = OptimizeOptions(**{field: options.pop(field) for field in OptimizeOptions.__struct_fields__})
    missing: Sequence[str] = ()
    model = _build(source, name, version, settings, output, force=force, options=options)
    if optimizing != OptimizeOptions():
        model, missing = optimize_model(model, optimizing, settings, output)
    output.say(f"{model.spec} is built: {model.card.task}, {megabytes(model)}, in {model.folder}")
    say_if_waiting(model, settings, output)
    if as_json:
        output.document(summary(model, settings))
    return int(bool(missing))


def _build(
    text: str,
    name: str | None,
    version: str | None,
    settings: Settings,
    output: Output,
    *,
    force: bool,
    options: dict[str, Any],
) -> ServedModel:
    from pipeline.factory.build import build as build_model
    from pipeline.factory.family import Hints
    from pipeline.factory.sources.source import resolve_source, suggest_name

    name = name or suggest_name(text)
    hints = Hints(**{field: options.pop(field) for field in Hints.__struct_fields__})
    warnings: list[str] = []
    with step_progress(output, name) as step:
        source = resolve_source(text, hints=hints, progress=step, **options)
        model = build_model(
            source, settings, name=name, version=version, force=force, progress=step, warn=warnings.append
        )
    for warning in warnings:  # now that no spinner stands in their line
        output.warn(f"{model.spec}: {warning}")
    return model
