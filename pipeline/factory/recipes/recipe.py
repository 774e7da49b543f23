"""What a recipe for a pulled model is: pinned wheels in, a folder with a card out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.factory.gates.gate import Gate, broken_bounds, broken_invariance
from pipeline.factory.progress import Progress
from pipeline.factory.sources.fetch import Wheel
from pipeline.models.card import ModelCard, Precision, Variant
from pipeline.models.cardfile import sha256_of

__all__ = ["Kitchen", "Recipe", "check_gate", "make_variant"]


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


def check_gate(measured: Mapping[str, float], gate: Gate, model: str) -> None:
    """Raise ModelError, naming each figure of ``gate`` that is out of its bound; batch invariance is always asked."""
    broken = [*broken_bounds(measured, gate), *broken_invariance(measured)]
    if broken:
        raise ModelError(
            f"model {model}: INT8 is not good enough on this machine: {'; '.join(broken)}. It was not installed."
        )


def make_variant(folder: Path, precision: Precision, method: str, measured: dict[str, float]) -> Variant:
    """The card's entry of ``<precision>.onnx`` in ``folder``. Raises OSError."""
    file = f"{precision}.onnx"
    return Variant(file=file, sha256=sha256_of(folder / file), method=method, measured=measured)
