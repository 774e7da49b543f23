"""What a family of models is: files on this disk in, an FP32 graph and a card out.

A family is one small file in :mod:`pipeline.factory.families`. It reads weights as data (safetensors, or a PyTorch file
through :mod:`pipeline.factory.torch_file`) and never runs code that came with a model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from pipeline.factory.recipe import Progress
from pipeline.models.card import ModelCard
from schemas.messages import Task

__all__ = ["Family", "Source", "Workbench"]


class Source(Struct, frozen=True, kw_only=True):
    """Where a model comes from, fetched and checked.

    Attributes:
        kind: ``huggingface``: ``path`` is a folder with ``config.json`` and ``*.safetensors``; ``torchvision``:
            ``architecture`` names it and ``path`` is a checkpoint, or nothing for torchvision's own weights; ``onnx``:
            ``path`` is the file.
        origin: what the user asked for, for the card and for messages.
        path: the folder or file.
        config: the content of ``config.json``; empty elsewhere.
        architecture: ``architectures[0]`` of the config, such as ``BertForSequenceClassification``, or torchvision's
            name, such as ``resnet50``.
        task: what the user wants of it; ``None`` leaves it to the family.
        license: as the source says, or ``unknown``.
    """

    kind: Literal["huggingface", "torchvision", "onnx"]
    origin: str
    path: Path | None = None
    config: dict[str, Any] = {}
    architecture: str = ""
    task: Task | None = None
    license: str = "unknown"


class Workbench(Struct, frozen=True, kw_only=True):
    """Where a family works.

    Attributes:
        name: of the model in the store.
        version: of it.
        folder: where the version's files go: ``fp32.onnx``, further graphs as ``fp32.<role>.onnx``, ``tokenizer.json``,
            ``labels.txt``, ``chat_template.jinja``.
        scratch: for what is not kept.
        progress: told what is going on, in a few words.
    """

    name: str
    version: str
    folder: Path
    scratch: Path
    progress: Progress


class Family(Struct, frozen=True, kw_only=True):
    """One family.

    Attributes:
        name: as people know it, such as ``bert``.
        tasks: what its models can be built for.
        accepts: whether a source is of this family.
        build: writes the FP32 graphs and the files beside them into the workbench's folder, and returns the card with
            the variant ``fp32`` alone; raises ModelError.
    """

    name: str
    tasks: tuple[Task, ...]
    accepts: Callable[[Source], bool]
    build: Callable[[Source, Workbench], ModelCard]
