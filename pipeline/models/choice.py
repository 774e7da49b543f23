"""Which variant of a model runs, and how: card, settings, device and profile in, a choice out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.models.card import ModelCard, VariantName, precision_of
from pipeline.models.profile import Point, Profile

__all__ = ["Choice", "Wanted", "choose"]

Wanted = Literal["auto", "int8", "fp16", "fp32"]
ENOUGH = 0.97
"""The share of the best throughput that is as good: a larger batch would only make its records wait."""
_CPU = ("int8", "int8-weights", "fp32", "fp16")
_CUDA = ("fp16", "int8-weights", "fp32", "int8")
# A decoder stays off the GPU unless its cache is float16 (pipeline.runtime.onnx): what is best there is best on a CPU.
_CUDA_DECODER = ("fp16", "int8", "int8-weights", "fp32")
_DECODERS = ("text-generation", "image-to-text")


class Choice(Struct, frozen=True, kw_only=True):
    """How a model runs.

    Attributes:
        threads: 0 for every core.
        max_batch_size: records in a run; of a decoder, texts at once, which are never fewer than the settings allow.
    """

    variant: VariantName
    threads: int
    max_batch_size: int


def choose(
    card: ModelCard,
    *,
    wanted: Wanted,
    provider: Literal["cpu", "cuda"],
    profile: Profile | None = None,
    threads: int = 0,
    max_batch_size: int = 1,
) -> Choice:
    """Choose among the variants that the card admits for ``provider``, and of the precision that is ``wanted``.

    The fastest one measured on this device runs, with the threads and up to the batch size that made it so; without a
    profile, the first in the provider's order of preference.

    Args:
        card: of the model.
        wanted: a precision insists on it; ``auto`` does not.
        provider: where it is to run.
        profile: of this device.
        threads: what the settings insist on; 0 leaves it to the profile.
        max_batch_size: the settings' bound.

    Raises:
        ModelError: no variant is admitted.
    """
    admitted = _admitted(card, wanted, provider)
    points = [point for point in profile.points if point.variant in admitted] if profile else []
    points = [point for point in points if threads in (0, point.threads)] or points
    reachable = [point for point in points if point.batch_size <= max_batch_size]
    if not reachable:
        return Choice(variant=admitted[0], threads=threads, max_batch_size=max_batch_size)
    best = max(reachable, key=lambda point: point.per_second)
    same = [point for point in points if (point.variant, point.threads) == (best.variant, best.threads)]
    # A decoder keeps its slots: with fewer, a short text would wait for a long one to end.
    size = max_batch_size if card.task in _DECODERS else min(_enough(same, max_batch_size), max_batch_size)
    return Choice(variant=best.variant, threads=threads or best.threads, max_batch_size=size)


def _admitted(card: ModelCard, wanted: Wanted, provider: Literal["cpu", "cuda"]) -> list[VariantName]:
    """The variants in question, the preferred one first."""
    order = _CPU if provider == "cpu" else _CUDA_DECODER if card.task in _DECODERS else _CUDA
    names = [name for name, variant in card.variants.items() if provider in variant.providers]
    names = [name for name in names if wanted in ("auto", precision_of(name))]
    if not names:
        here = ", ".join(f"{name} ({', '.join(variant.providers)})" for name, variant in card.variants.items())
        variant = "variant" if wanted == "auto" else f"{wanted} variant"
        raise ModelError(
            f"model {card.name}@{card.version} has no {variant} for {provider}, only {here}. Set runtime.precision or "
            f"runtime.provider to what it has, or make it: `millrace models optimize {card.name}`."
        )
    return sorted(names, key=lambda name: (_place(order, name), name))


def _place(order: Sequence[str], name: VariantName) -> int:
    """A name that the order does not know comes with its precision, after the plain one."""
    return 2 * order.index(name) if name in order else 2 * order.index(precision_of(name)) + 1


def _enough(points: Sequence[Point], bound: int) -> int:
    """The batch size beyond which throughput does not grow, or ``bound`` when it still grew at the largest measured."""
    best = max(point.per_second for point in points)
    smallest = min(point.batch_size for point in points if point.per_second >= ENOUGH * best)
    return bound if smallest == max(point.batch_size for point in points) else smallest
