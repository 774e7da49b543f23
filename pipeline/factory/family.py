"""What a family of models is: files on this disk in, an FP32 graph and a card out.

A family is one small file in :mod:`pipeline.factory.families`. It reads weights as data (safetensors, or a PyTorch file
through :mod:`pipeline.factory.sources.torch_file`) and never runs code that came with a model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.factory.progress import Progress
from pipeline.models.card import ModelCard
from schemas.messages import Task

__all__ = ["IMAGE_HINTS", "Family", "Hint", "Hints", "Source", "Workbench", "check_hints"]

Hint = Literal["labels", "tokenizer", "size", "mean", "std"]
"""The name of a field of :class:`Hints`."""
IMAGE_HINTS: tuple[Hint, ...] = ("size", "mean", "std")


class Hints(Struct, frozen=True, kw_only=True):
    """What the user says about a model where its files do not; what is set here wins over what they say.

    Attributes:
        labels: a file with one label a line.
        tokenizer: a ``tokenizer.json``.
        size: height and width of the image.
        mean: taken from each channel of the image, scaled to [0, 1].
        std: what each channel is then divided by.
    """

    labels: Path | None = None
    tokenizer: Path | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


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
        hints: what the user adds.
    """

    kind: Literal["huggingface", "torchvision", "onnx"]
    origin: str
    path: Path | None = None
    config: dict[str, Any] = {}
    architecture: str = ""
    task: Task | None = None
    license: str = "unknown"
    hints: Hints = Hints()

    @property
    def folder(self) -> Path:
        """The folder that it is. Raises ModelError when it is none."""
        if self.path is None or not self.path.is_dir():
            raise ModelError(f"{self.origin}: {self.architecture} is built from a folder as save_pretrained leaves it.")
        return self.path


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
        architectures: what ``config.json`` calls its models, such as ``BertModel``; empty where there are more than can
            be listed.
        hints: those that it has a use for; the others are refused.
        kind: of the sources that it takes, where it has no architectures.
        build: writes the FP32 graphs and the files beside them into the workbench's folder, and returns the card with
            the variant ``fp32`` alone; raises ModelError.
    """

    name: str
    tasks: tuple[Task, ...]
    architectures: tuple[str, ...] = ()
    hints: tuple[Hint, ...] = ()
    kind: Literal["torchvision", "onnx"] | None = None
    build: Callable[[Source, Workbench], ModelCard]

    def accepts(self, source: Source) -> bool:
        """Whether ``source`` is of this family."""
        return source.architecture in self.architectures if self.architectures else source.kind == self.kind


def check_hints(source: Source, taken: tuple[Hint, ...], who: str) -> None:
    """What the user says must be of use: nothing of it is dropped in silence.

    Args:
        source: with the user's hints.
        taken: the hints that ``who`` has a use for.
        who: what is built, for the message.

    Raises:
        ModelError: a hint is given that is not among these.
    """
    given = [name for name in Hints.__struct_fields__ if getattr(source.hints, name) is not None]
    if refused := [f"--{name}" for name in given if name not in taken]:
        known = ", ".join(f"--{name}" for name in taken) or "none"
        raise ModelError(
            f"{source.origin}: {who} has no use for {' and '.join(refused)} (of such options it takes: {known}). "
            f"Leave {'it' if len(refused) == 1 else 'them'} out."
        )
