"""Which task a card asks for."""

from __future__ import annotations

from typing import Any

from pipeline.errors import ModelError
from pipeline.models.card import VariantName
from pipeline.models.store import ServedModel
from pipeline.runtime.session import Backend
from pipeline.settings import Settings
from pipeline.tasks.batch import BatchModel, BatchTask
from pipeline.tasks.classification import ImageClassification
from pipeline.tasks.generation import TextGeneration
from pipeline.tasks.task import ModelTask, StepObserver

__all__ = ["batch_model", "make_task"]


def make_task(
    model: ServedModel, variant: VariantName, settings: Settings, backend: Backend, observe: StepObserver
) -> ModelTask[Any]:
    """The task of ``model``, not opened yet. Raises ModelError for a card that does not fit its task."""
    card, folder = model.card, model.folder
    if card.task == "text-generation" and card.text is not None:
        chosen = card.variants[variant]
        return TextGeneration(folder / chosen.file, chosen.digest, folder, card.text, settings, backend, observe)
    return BatchTask(
        model.spec, batch_model(model, variant, settings, backend), settings.batching.max_batch_size, observe
    )


def batch_model(model: ServedModel, variant: VariantName, settings: Settings, backend: Backend) -> BatchModel[Any, Any]:
    """What answers whole batches, for a task that does. Raises ModelError for a card that does not fit its task."""
    card, folder = model.card, model.folder
    path = model.path(variant)
    if card.task == "image-classification" and card.image is not None and card.image.labels is not None:
        return ImageClassification(path, folder / card.image.labels, card.image, settings.images, backend)
    raise ModelError(f"model {model.spec}: its card lacks what a model of task {card.task} needs.")
