"""From what a training leaves, a Hugging Face folder or an ONNX file, to a shipped model, by way of the factory.

It builds and optimizes; then the task that serves the model is asked what was held out, and INT8 is shipped, where it
answers as well as FP32 or at most a point less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from pipeline.factory.build import build
from pipeline.factory.optimize import optimize
from pipeline.factory.samples import Sample
from pipeline.factory.sources.source import resolve_source
from pipeline.models.card import ModelCard, VariantName
from pipeline.models.store import ServedModel
from pipeline.settings import Settings

__all__ = ["FULL", "MOST_LOST", "SHIPPED", "TinyModel", "check_held_out", "make"]

VERSION = "1.0.0"
FULL: VariantName = "fp32"
SHIPPED: VariantName = "int8"
MOST_LOST = 0.01
# Not for the card: times are those of the machine that trained, and perplexity counts the questions too, which a model
# that was taught to answer never learned to ask.
LEFT_OUT = ("ms_", "speedup_", "memory_", "perplexity", "fp32_perplexity")
Say = Callable[[str], None]


class TinyModel(Struct, frozen=True, kw_only=True):
    """What is particular to one model.

    Attributes:
        description: for its card.
        source: what it was trained on, for its card.
        license: of it and of what it was trained on.
        train: trains it from scratch and writes a Hugging Face folder, or an ONNX file and what describes it.
        graph: the name of that ONNX file; empty for a Hugging Face folder.
        calibration: samples that INT8's ranges are taken from; of the training data.
        evaluation: samples that the factory's gate compares INT8 with FP32 on; held out.
        measure: held-out figures of a variant, asked through its task; each that ends in ``accuracy``, ``recall`` or
            ``precision`` may be at most 0.01 less in INT8 than in FP32, each ``perplexity`` at most 1 % more.
        facts: figures that are not about one variant, such as how much was held out.
        ships: the variants that are kept.
        page: what its page tells besides the card.
    """

    name: str
    description: str
    source: str
    license: str
    train: Callable[[Path, Say], None]
    calibration: Callable[[], Sequence[Sample]]
    evaluation: Callable[[], Sequence[Sample]]
    measure: Callable[[ServedModel, VariantName], dict[str, float]]
    facts: Callable[[], dict[str, float]]
    graph: str = ""
    ships: tuple[VariantName, ...] = (SHIPPED,)
    page: Callable[[ServedModel], dict[str, Any]] = lambda _: {}


def make(tiny: TinyModel, trained: Path, store: Path, say: Say) -> ServedModel:
    """Build, optimize and measure what is in the folder ``trained``; what is to be shipped of it, and where it is.

    Raises:
        ValueError: INT8 loses more than 0.01 of a held-out figure, or the factory's gate did not admit it.
        ModelError: the factory cannot build it.
    """
    settings = Settings()
    settings = replace(settings, models=replace(settings.models, store=str(store)))
    source = resolve_source(str(trained / tiny.graph))
    model = build(source, settings, name=tiny.name, version=VERSION, force=True, progress=say)
    calibration, evaluation = tiny.calibration(), tiny.evaluation()
    card = optimize(
        model, variants=[SHIPPED], calibration=calibration, evaluation=evaluation, settings=settings, progress=say
    )
    if SHIPPED not in card.variants:
        raise ValueError(f"{tiny.name}: INT8 was rejected: {card.rejected[SHIPPED].reason}")
    model = replace(model, card=card)
    full, ours = (tiny.measure(model, variant) for variant in (FULL, SHIPPED))
    say(f"  held out: int8 {ours}, fp32 {full}")
    check_held_out(tiny.name, full, ours)
    if FULL not in tiny.ships:
        for file in model.folder.glob(f"{FULL}*"):
            file.unlink()
    compared = ours | {f"fp32_{name}": value for name, value in full.items()}
    return replace(model, card=_described(tiny, card, {SHIPPED: compared, FULL: full}))


def _described(tiny: TinyModel, card: ModelCard, figures: dict[VariantName, dict[str, float]]) -> ModelCard:
    """The card of what is shipped."""
    variants = {name: replace(card.variants[name], measured=_kept(card, name) | figures[name]) for name in tiny.ships}
    return replace(
        card,
        description=tiny.description,
        source=tiny.source,
        license=tiny.license,
        variants=variants,
        measured=tiny.facts(),
    )


def _kept(card: ModelCard, variant: VariantName) -> dict[str, float]:
    """What the factory measured, but for what is left out."""
    measured = card.variants[variant].measured
    return {name: value for name, value in measured.items() if not name.startswith(LEFT_OUT)}


def check_held_out(name: str, full: dict[str, float], ours: dict[str, float]) -> None:
    """Raise ValueError when INT8's figures are too far behind FP32's (see :class:`TinyModel`)."""
    for figure, before in full.items():
        if figure.endswith(("accuracy", "recall", "precision")) and ours[figure] < before - MOST_LOST:
            raise ValueError(f"{name}: INT8's {figure} is {ours[figure]}, more than a point below FP32's {before}.")
        if figure.endswith("perplexity") and ours[figure] > before * (1 + MOST_LOST):
            raise ValueError(f"{name}: INT8's {figure} is {ours[figure]}, more than 1 % above FP32's {before}.")
