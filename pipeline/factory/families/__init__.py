"""The families of models that the factory knows: one file each, with the family as ``FAMILY``.

They are imported when a model is built, not before: some read foreign libraries, and a worker needs none of them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from pipeline.errors import ModelError
from pipeline.factory.family import Family, Source, check_hints

__all__ = ["find_family", "list_families"]


def find_family(source: Source) -> Family:
    """The family of ``source``.

    Raises:
        ModelError: no family takes it, or the one that does cannot be built for the task that is wanted or has no use
            for what the user says of the model.
    """
    family = next((family for family in list_families() if family.accepts(source)), None)
    if family is None:
        raise ModelError(_unknown(source))
    if source.task is not None and source.task not in family.tasks:
        raise ModelError(
            f"{source.origin}: {_named(source)} is of the family {family.name}, which does "
            f"{', '.join(family.tasks)}, not {source.task}. Leave --task out, or give another model."
        )
    check_hints(source, family.hints, f"the family {family.name}")
    return family


def list_families() -> Iterator[Family]:
    """Every family, by name of its file."""
    for module in pkgutil.iter_modules(__path__):
        found = getattr(importlib.import_module(f"{__name__}.{module.name}"), "FAMILY", None)
        if found is not None:
            yield found


def _named(source: Source) -> str:
    return source.architecture or f"a model of kind {source.kind}"


def _unknown(source: Source) -> str:
    known = sorted({name for family in list_families() for name in family.architectures})
    return (
        f"{source.origin}: no family of Millrace builds {_named(source)}. These architectures are known: "
        f"{', '.join(known)}; and torchvision's classifiers and ONNX files. `millrace models families` lists them. "
        "A model of another kind is served once it is exported to ONNX: docs/building.md, From an ONNX file."
    )
