"""What the commands of `millrace models` say of a model, for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from console.output import Output
from pipeline.errors import ModelError
from pipeline.models.card import VariantName
from pipeline.models.names import promoted_version
from pipeline.models.store import ServedModel
from pipeline.settings import Settings

__all__ = ["figures", "is_promoted", "megabytes", "say_if_waiting", "spec_of", "summary", "with_figure"]

TELLING = ("accuracy", "top1_agreement", "mean_cosine", "matched_f1", "perplexity_ratio", "perplexity")


def spec_of(folder: Path) -> str:
    """``name@version`` of a version's folder, whatever its card says."""
    return f"{folder.parent.name}@{folder.name}"


def summary(model: ServedModel, settings: Settings) -> dict[str, Any]:
    """The model's entry in a JSON document."""
    return {
        "name": model.card.name,
        "version": model.card.version,
        "promoted": is_promoted(model, settings),
        "task": model.card.task,
        "variants": msgspec.to_builtins(model.card.variants),
        "rejected": msgspec.to_builtins(model.card.rejected),
        "folder": str(model.folder),
        "shipped": settings.models.store_path not in model.folder.parents,
        "bytes": _size(model),
    }


def is_promoted(model: ServedModel, settings: Settings) -> bool:
    """Whether the model's name alone means this version; no version is where the pointer is damaged or missing."""
    try:
        return promoted_version(model.card.name, settings) == model.card.version
    except ModelError:
        return False


def say_if_waiting(model: ServedModel, settings: Settings, output: Output) -> None:
    """Tell how a version that its name does not mean is promoted."""
    if not is_promoted(model, settings):
        output.say(f"It waits to be promoted: millrace models promote {model.card.name} {model.card.version}")


def megabytes(model: ServedModel) -> str:
    """The size of all its files."""
    return f"{_size(model) / 1e6:.1f} MB"


def figures(measured: Mapping[str, float]) -> str:
    """Measured figures in one line."""
    return ", ".join(f"{name} {value:.6g}" for name, value in measured.items())


def with_figure(name: VariantName, measured: Mapping[str, float]) -> str:
    """A variant's name, and the figure that tells most of it; FP32 is what the others are measured against."""
    found = next((figure for figure in TELLING if figure in measured), None)
    return name if found is None or name == "fp32" else f"{name} ({found} {measured[found]:.4g})"


def _size(model: ServedModel) -> int:
    return sum(file.stat().st_size for file in model.folder.iterdir() if file.is_file())
