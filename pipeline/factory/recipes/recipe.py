"""What a recipe for a pulled model is: pinned wheels in, a folder with a card out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.factory.progress import Progress
from pipeline.factory.sources.fetch import Wheel
from pipeline.models.card import ModelCard, Precision, Variant
from pipeline.models.cardfile import sha256_of

__all__ = ["Gate", "Kitchen", "Recipe", "check_gate", "make_variant"]


class Kitchen(Struct, frozen=True, kw_only=True):
    """Where a recipe works.

    Attributes:
        wheels: the fetched wheels by package name.
        folder: where the version's files go.
        scratch: for what is not kept.
        progress: told what is going on, in a few words.
    """

    wheels: Mapping[str, Path]
    folder: Path
    scratch: Path
    progress: Progress


class Recipe(Struct, frozen=True, kw_only=True):
    """How one model is made.

    Attributes:
        version: of the model in the store; it changes whenever the graph does.
        disk_bytes: the most it needs on the way, FP32 graph included.
        build: makes both variants, checks INT8 against FP32 and returns the card; raises ModelError.
    """

    name: str
    version: str
    wheels: tuple[Wheel, ...]
    disk_bytes: int
    build: Callable[[Kitchen], ModelCard]


class Gate(Struct, frozen=True, kw_only=True):
    """The bounds that an INT8 variant must keep to be installed, by figure."""

    at_least: dict[str, float] = {}
    at_most: dict[str, float] = {}


def check_gate(measured: Mapping[str, float], gate: Gate, model: str) -> None:
    """Raise ModelError, naming each figure that is out of its bound. A figure that is not a number is out."""
    failed = [
        f"{name} is {measured[name]}, at least {low}"
        for name, low in gate.at_least.items()
        if not measured[name] >= low
    ]
    failed += [
        f"{name} is {measured[name]}, at most {high}"
        for name, high in gate.at_most.items()
        if not measured[name] <= high
    ]
    if failed:
        raise ModelError(
            f"model {model}: INT8 strays too far from FP32 on this machine: {'; '.join(failed)} is asked. "
            "It was not installed."
        )


def make_variant(folder: Path, precision: Precision, method: str, measured: dict[str, float]) -> Variant:
    """The card's entry of ``<precision>.onnx`` in ``folder``. Raises OSError."""
    file = f"{precision}.onnx"
    return Variant(file=file, sha256=sha256_of(folder / file), method=method, measured=measured)
