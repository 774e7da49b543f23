"""Fetching the models that are missing before anything is started."""

from __future__ import annotations

from collections.abc import Iterable

from console.output import Output
from console.progress import step_progress
from pipeline.models.folders import list_folders
from pipeline.models.shelves import PULLABLE
from pipeline.settings import Settings

__all__ = ["ensure_models", "missing_models", "pullable_models"]


def missing_models(settings: Settings) -> list[str]:
    """The names of the models to serve that are not here yet and can be pulled."""
    folders = list_folders(settings)
    here = {name for folder in folders for name in (folder.parent.name, f"{folder.parent.name}@{folder.name}")}
    return _pullable(spec for spec in settings.models.serve if spec not in here)


def pullable_models(settings: Settings) -> list[str]:
    """The names of the models to serve that can be pulled, here or not."""
    return _pullable(settings.models.serve)


def _pullable(specs: Iterable[str]) -> list[str]:
    names = dict.fromkeys(spec.partition("@")[0] for spec in specs)
    return [name for name in names if name in PULLABLE]


def ensure_models(settings: Settings, output: Output) -> None:
    """Pull what is missing, saying so. Raises ModelError when that cannot be done; nothing was started then."""
    missing = missing_models(settings)
    if not missing:
        return
    from pipeline.factory.recipes.pull import pull  # brings onnx and ONNX Runtime, which nobody else here needs

    for name in missing:
        output.say(f"{name} is not here yet; it is fetched and built once")
        with step_progress(output, name) as step:
            pull(name, settings, progress=step)
