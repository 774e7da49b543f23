"""Which of the served models a request goes to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from pipeline.models.card import ModelCard
from pipeline.models.store import ServedModel
from schemas.errors import ModelNotFoundError, PrepareError
from schemas.messages import ImageInput, InferenceRequest, Task
from schemas.tasks import TASKS, kind_of

__all__ = ["find_route", "task_of"]

OTHER = {"prompts": "images", "images": "prompts"}


class _Route(Protocol):
    @property
    def model(self) -> ServedModel: ...


R = TypeVar("R", bound=_Route)


def find_route(request: InferenceRequest, routes: Sequence[R]) -> R:
    """The first route of the request's task, model and version; what it leaves open matches anything.

    A model whose own task it is goes before one that can do it too.

    Raises:
        ModelNotFoundError: no route matches; the message lists what is served.
        PrepareError: something is asked that the task has no answer to.
    """
    named = [route for route in routes if request.model in (None, route.model.card.name)]
    versions = [route for route in named if request.model_version in (None, route.model.card.version)]
    tasks = [(route, task_of(request, route.model.card)) for route in versions]
    fitting = [(route, task) for route, task in tasks if task is not None]
    if not fitting:
        raise _not_found(request, named, versions, routes)
    route, task = next((pair for pair in fitting if pair[0].model.card.task == pair[1]), fitting[0])
    _check_asked(request, task)
    return route


def task_of(request: InferenceRequest, card: ModelCard) -> Task | None:
    """What a model does with a request: the task it names, or else the model's first that takes such an input.

    ``None`` when the model has no such task, or takes no such input.
    """
    kind = kind_of(request.input)
    if "embeddings" in card.tasks and (card.encoder if kind == "prompts" else card.image) is None:
        return None
    tasks = [task for task in card.tasks if task in TASKS[kind] and request.task in (None, task)]
    return tasks[0] if tasks else None


def _check_asked(request: InferenceRequest, task: Task) -> None:
    """Refuse what would be left unanswered. Settings that a task has no use for, such as ``seed``, are no question."""
    asked = request.input
    if not isinstance(asked, ImageInput):
        return
    if asked.candidate_labels and task != "zero-shot-image-classification":
        raise _unasked("candidate_labels", "zero-shot-image-classification", task)
    if asked.prompt is not None and task != "image-to-text":
        raise _unasked("prompt", "image-to-text", task)


def _unasked(field: str, needed: Task, task: Task) -> PrepareError:
    return PrepareError(
        f"{field} is for {needed}, and this record asks for {task}. Set 'task' to {needed!r}, or leave {field} out.",
        where=f"$.{field}",
    )


def _not_found(
    request: InferenceRequest, named: Sequence[_Route], versions: Sequence[_Route], routes: Sequence[_Route]
) -> ModelNotFoundError:
    here = ", ".join(f"{route.model.spec} ({', '.join(route.model.card.tasks)})" for route in routes)
    if not named:
        return ModelNotFoundError(f"model {request.model!r} is not served here. Served: {here}", where="$.model")
    if not versions:
        wanted = f"version {request.model_version!r} of {request.model or 'any model'}"
        return ModelNotFoundError(f"{wanted} is not served here. Served: {here}", where="$.model_version")
    kind = kind_of(request.input)
    if request.task is None:
        message = f"model {request.model!r} does not take {kind}. Send {OTHER[kind]} to it. Served: {here}"
        return ModelNotFoundError(message, where="$.model")
    wanted = f"model {request.model!r}" if request.model else "any model"
    message = f"{wanted} for {request.task} of {kind} is not served here. Served: {here}"
    return ModelNotFoundError(message, where="$.task")
