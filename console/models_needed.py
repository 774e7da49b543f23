"""Fetching the models that are missing before anything is started."""

from __future__ import annotations

from functools import partial

from rich.status import Status

from console.output import Output
from pipeline.models.store import PULLABLE, list_models
from pipeline.settings import Settings

__all__ = ["ensure_models", "missing_models"]


def missing_models(settings: Settings) -> list[str]:
    """The models to serve that are not here yet and can be pulled."""
    here = {model.card.name for model in list_models(settings)}
    return [name for name in settings.models.serve if name in PULLABLE and name not in here]


def ensure_models(settings: Settings, output: Output) -> None:
    """Pull what is missing, saying so. Raises ModelError when that cannot be done; nothing was started then."""
    missing = missing_models(settings)
    if not missing:
        return
    from pipeline.models.pull import pull  # brings onnx and ONNX Runtime, which nobody else here needs

    for name in missing:
        output.say(f"{name} is not here yet; it is fetched and built once")
        if output.interactive:
            with output.people.status(name) as status:
                pull(name, settings, progress=partial(_spin, status, name))
        else:
            pull(name, settings, progress=partial(_say, output, name))


def _spin(status: Status, name: str, step: str) -> None:
    status.update(f"{name}: {step}")


def _say(output: Output, name: str, step: str) -> None:
    output.say(f"{name}: {step}")
