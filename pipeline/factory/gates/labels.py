"""Whether the right answers of samples are a model's own labels: others would count as its errors, in silence."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from pipeline.errors import ModelError
from pipeline.factory.gates.detection import right_objects
from pipeline.factory.samples import Sample
from pipeline.models.card import ModelCard
from pipeline.models.store import ServedModel
from pipeline.tasks.labels import read_labels

__all__ = ["check_answers"]

SHOWN = 5


def check_answers(model: ServedModel, samples: Sequence[Sample]) -> None:
    """Raise ModelError for a sample whose answer names a label that ``model`` does not have; other models have none."""
    if (file := _labels_file(model.card)) is None:
        return
    known = read_labels(model.folder / file)
    for number, sample in enumerate(samples, 1):
        for label in _labels_of(sample, model.card, number):
            if label not in known:
                raise ModelError(f"{sample.where or f'sample {number}'}: {_unknown(label, known)}")


def _labels_file(card: ModelCard) -> str | None:
    specs = [spec for spec in (card.image, card.encoder) if spec is not None]
    return next((spec.labels for spec in specs if spec.labels is not None), None)


def _labels_of(sample: Sample, card: ModelCard, number: int) -> list[str]:
    if sample.answer is None:
        return []
    if card.task == "object-detection":
        return [found.label for found in right_objects(sample, number)]
    return [sample.answer]


def _unknown(label: str, known: Sequence[str]) -> str:
    near = "".join(f" Is {one} meant?" for one in get_close_matches(label, known, 1))
    some = ", ".join(known[:SHOWN]) + (", ..." if len(known) > SHOWN else "")
    return (
        f"the model has no label {label!r}.{near} It has {len(known)}: {some}. Correct it, or build the model with "
        "--labels in these words."
    )
