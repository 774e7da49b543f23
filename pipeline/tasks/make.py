"""Which task a card asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import ModelError
from pipeline.models.card import (
    DetectionSpec,
    EncoderSpec,
    ImageSpec,
    ModelCard,
    TextSpec,
    VariantName,
    VisionSpec,
    ZeroShotSpec,
)
from pipeline.models.store import ServedModel
from pipeline.runtime.session import Backend
from pipeline.settings import Settings
from pipeline.tasks.batch import BatchModel, BatchTask
from pipeline.tasks.classification import ImageClassification
from pipeline.tasks.detection import ObjectDetection
from pipeline.tasks.embeddings import TextEmbeddings
from pipeline.tasks.generation import TextGeneration
from pipeline.tasks.image_to_text import ImageToText
from pipeline.tasks.task import ModelTask, StepObserver
from pipeline.tasks.text_classification import TextClassification
from pipeline.tasks.zero_shot import ZeroShot

__all__ = ["batch_model", "make_task"]


def make_task(
    model: ServedModel, variant: VariantName, settings: Settings, backend: Backend, observe: StepObserver
) -> ModelTask[Any]:
    """The task of ``model``, not opened yet. Raises ModelError for a card that does not fit its task."""
    folder, path, digest = model.folder, model.path(variant), model.card.variants[variant].digest
    match model.card:
        case ModelCard(task="text-generation", text=TextSpec() as text):
            return TextGeneration(path, digest, folder, text, settings, backend, observe)
        case ModelCard(
            task="image-to-text", text=TextSpec() as text, image=ImageSpec() as image, vision=VisionSpec() as vision
        ):
            return ImageToText(
                path,
                _part(model, variant, "vision"),
                digest,
                text=text,
                image=image,
                vision=vision,
                settings=settings,
                backend=backend,
                observe=observe,
            )
    return BatchTask(
        model.spec, batch_model(model, variant, settings, backend), settings.batching.max_batch_size, observe
    )


def batch_model(model: ServedModel, variant: VariantName, settings: Settings, backend: Backend) -> BatchModel[Any, Any]:
    """What answers whole batches, for a task that does. Raises ModelError for a card that does not fit its task."""
    folder, path = model.folder, model.path(variant)
    match model.card:
        case ModelCard(task="image-classification", image=ImageSpec(labels=str(labels)) as image):
            return ImageClassification(path, folder / labels, image, settings.images, backend)
        case ModelCard(task="object-detection", image=ImageSpec(labels=str(labels)) as image, detection=detection):
            detection = detection or DetectionSpec()
            return ObjectDetection(path, folder / labels, image, detection, settings.images, backend)
        case ModelCard(task="text-classification", encoder=EncoderSpec(labels=str(labels)) as encoder):
            return TextClassification(path, folder, labels, encoder, backend)
        case ModelCard(task="embeddings", encoder=EncoderSpec() as encoder):
            return TextEmbeddings(path, folder, encoder, backend)
        case ModelCard(
            task="zero-shot-image-classification",
            image=ImageSpec() as image,
            encoder=EncoderSpec() as encoder,
            zero_shot=ZeroShotSpec() as spec,
        ):
            return ZeroShot(
                path,
                _part(model, variant, "text"),
                folder,
                image=image,
                text=encoder,
                spec=spec,
                images=settings.images,
                backend=backend,
            )
    raise ModelError(f"model {model.spec}: its card lacks what a model of task {model.card.task} needs.")


def _part(model: ServedModel, variant: VariantName, role: str) -> Path:
    """The file of another graph of a variant. Raises ModelError when it has none of that role."""
    part = model.card.variants[variant].parts.get(role)
    if part is None:
        raise ModelError(f"model {model.spec}: its variant {variant} has no part {role!r}. Pull or build it again.")
    return model.folder / part.file
