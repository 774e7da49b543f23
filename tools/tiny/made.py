"""From a trained Hugging Face folder to a shipped model, by way of the factory.

It builds and optimizes; then the task that serves the model is asked what was held out, and INT8 alone is shipped,
where it answers as well as FP32 or at most a point less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from pipeline.factory.build import build
from pipeline.factory.optimize import optimize
from pipeline.factory.samples import Sample
from pipeline.factory.sources.source import resolve_source
from pipeline.models.card import ModelCard, VariantName
from pipeline.models.store import ServedModel
from pipeline.settings import Settings

__all__ = ["TinyModel", "make"]

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
        train: trains it from scratch and writes a Hugging Face folder.
        calibration: samples that INT8's ranges are taken from; of the training data.
        evaluation: samples that the factory's gate compares INT8 with FP32 on; held out.
        measure: held-out figures of a variant, asked through its task; each that ends in ``accuracy``, ``recall`` or
            ``precision`` may be at most 0.01 less in INT8 than in FP32.
        facts: figures that are not about one variant, such as how much was held out.
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


def make(tiny: TinyModel, trained: Path, store: Path, say: Say) -> tuple[ModelCard, Path]:
    """Build, optimize and measure what is in the folder ``trained``; the card of INT8 alone, and where its files are.

    Raises:
        ValueError: INT8 loses more than 0.01 of a held-out figure, or the factory's gate did not admit it.
        ModelError: the factory cannot build it.
    """
    settings = Settings()
    settings = replace(settings, models=replace(settings.models, store=str(store)))
    model = build(resolve_source(str(trained)), settings, name=tiny.name, version=VERSION, force=True, progress=say)
    calibration, evaluation = tiny.calibration(), tiny.evaluation()
    card = optimize(
        model, variants=[SHIPPED], calibration=calibration, evaluation=evaluation, settings=settings, progress=say
    )
    if SHIPPED not in card.variants:
        raise ValueError(f"{tiny.name}: INT8 was rejected: {card.rejected[SHIPPED].reason}")
    model = replace(model, card=card)
    full, ours = (tiny.measure(model, variant) for variant in (FULL, SHIPPED))
    say(f"  held out: int8 {ours}, fp32 {full}")
    _check(tiny.name, full, ours)
    for file in model.folder.glob(f"{FULL}*"):
        file.unlink()
    return _described(tiny, card, ours | {f"fp32_{name}": value for name, value in full.items()}), model.folder


def _described(tiny: TinyModel, card: ModelCard, figures: dict[str, float]) -> ModelCard:
    """The card of INT8 alone."""
    compared = {name: it for name, it in card.variants[SHIPPED].measured.items() if not name.startswith(LEFT_OUT)}
    return replace(
        card,
        description=tiny.description,
        source=tiny.source,
        license=tiny.license,
        variants={SHIPPED: replace(card.variants[SHIPPED], measured=compared | figures)},
        measured=tiny.facts(),
    )


def _check(name: str, full: dict[str, float], ours: dict[str, float]) -> None:
    for figure, before in full.items():
        if figure.endswith(("accuracy", "recall", "precision")) and ours[figure] < before - MOST_LOST:
            raise ValueError(f"{name}: INT8's {figure} is {ours[figure]}, more than a point below FP32's {before}.")
