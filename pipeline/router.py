"""Which of the served models a request goes to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from pipeline.models.store import ServedModel
from schemas.errors import ModelNotFoundError
from schemas.messages import InferenceRequest

__all__ = ["find_route"]


class _Route(Protocol):
    @property
    def model(self) -> ServedModel: ...


R = TypeVar("R", bound=_Route)


def find_route(request: InferenceRequest, routes: Sequence[R]) -> R:
    """The first route of the request's task, model and version; what it leaves open matches anything.

    Raises:
        ModelNotFoundError: no route matches; the message lists what is served.
    """
    named = [route for route in routes if request.model in (None, route.model.card.name)]
    versions = [route for route in named if request.model_version in (None, route.model.card.version)]
    for route in versions:
        if route.model.card.task == request.task:
            return route
    raise _not_found(request, named, versions, routes)


def _not_found(
    request: InferenceRequest, named: Sequence[_Route], versions: Sequence[_Route], routes: Sequence[_Route]
) -> ModelNotFoundError:
    here = ", ".join(f"{route.model.spec} ({route.model.card.task})" for route in routes)
    if not named:
        return ModelNotFoundError(f"model {request.model!r} is not served here. Served: {here}", where="$.model")
    if not versions:
        wanted = f"version {request.model_version!r} of {request.model or 'any model'}"
        return ModelNotFoundError(f"{wanted} is not served here. Served: {here}", where="$.model_version")
    wanted = f"model {request.model!r}" if request.model else "any model"
    return ModelNotFoundError(f"{wanted} for {request.task} is not served here. Served: {here}", where="$.task")
