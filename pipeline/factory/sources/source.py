"""What ``millrace models build`` is given, found and checked: a folder, a file, a torchvision name or a hub's id."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.family import Hints, Source
from pipeline.factory.progress import Progress
from pipeline.factory.sources.hub import download
from pipeline.factory.sources.huggingface_folder import read_folder
from pipeline.models.card import NAME
from schemas.messages import Task

__all__ = ["Fetch", "resolve_source", "suggest_name"]

HUB, TORCHVISION = "hf:", "torchvision:"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PICKLES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl"})
Fetch = Callable[[str, str | None, Progress], Path]
"""Brings a repository of the hub at a revision (or its newest) to this disk; the folder's name is the commit."""


def resolve_source(
    text: str,
    *,
    task: Task | None = None,
    revision: str | None = None,
    checkpoint: Path | None = None,
    hints: Hints = Hints(),  # noqa: B008 - frozen
    fetch: Fetch = download,
    progress: Progress = lambda _: None,
) -> Source:
    """Find and check what ``text`` names; what is here wins over what the hub may have under the same name.

    Args:
        text: a folder with a ``config.json``, an ``.onnx`` file, ``torchvision:NAME``, ``hf:ORG/NAME`` or ``ORG/NAME``.
        task: what the model is wanted for; ``None`` leaves it to the family.
        revision: a branch, tag or commit of the hub; refused for what is not fetched from there.
        checkpoint: weights for torchvision's architecture.
        hints: what the user adds to the files.
        fetch: brings a hub's repository here.
        progress: told what is going on.

    Raises:
        ModelError: there is no such thing, it cannot be fetched, or it is of a kind that is not read; the message says
            what would be.
    """
    if checkpoint is not None and not text.startswith(TORCHVISION):
        raise ModelError(f"{text}: --checkpoint goes with torchvision:NAME, such as torchvision:resnet50.")
    path = Path(text).expanduser()
    if revision is not None and (text.startswith(TORCHVISION) or path.exists()):
        raise ModelError(f"{text}: --revision goes with a Hugging Face id, hf:ORG/NAME: of others nothing is fetched.")
    if text.startswith(TORCHVISION):
        source = _torchvision(text, checkpoint)
    elif path.is_dir():
        source = read_folder(path, origin=text)
    elif path.is_file():
        source = _file(path)
    else:
        repository = _hub_id(text)
        folder = fetch(repository, revision, progress)
        source = read_folder(folder, origin=f"{HUB}{repository}@{folder.name}")
    return replace(source, task=task, hints=hints)


def suggest_name(text: str) -> str:
    """A name for the store, from what was asked for: ``hf:org/My_Model`` gives ``my_model``. Raises ModelError."""
    last = text.removeprefix(HUB).removeprefix(TORCHVISION)
    last = Path(last).expanduser().resolve().name if "/" not in last or Path(last).exists() else Path(last).name
    name = re.sub(r"[^a-z0-9._-]+", "-", last.lower().removesuffix(".onnx")).lstrip("._-")[:64]
    if re.fullmatch(NAME, name) is None:
        raise ModelError(f"{text}: no name for the store can be made of this. Give one with --name.")
    return name


def _torchvision(text: str, checkpoint: Path | None) -> Source:
    name = text.removeprefix(TORCHVISION)
    if not name:
        raise ModelError("torchvision: which model? Write torchvision:NAME, such as torchvision:resnet50.")
    if checkpoint is not None and not checkpoint.is_file():
        raise ModelError(f"{text}: there is no checkpoint {checkpoint}.{_nearest(checkpoint)}")
    return Source(kind="torchvision", origin=text, path=checkpoint, architecture=name)


def _file(path: Path) -> Source:
    kind = path.suffix.lower()
    if kind == ".onnx":
        return Source(kind="onnx", origin=str(path), path=path)
    if kind in PICKLES:
        raise ModelError(
            f"{path}: a PyTorch file alone does not say what network it is for, and as a pickle it may run code. Give "
            f"the folder with config.json and *.safetensors, or torchvision:NAME --checkpoint {path}."
        )
    if kind == ".safetensors":
        raise ModelError(f"{path}: weights alone. Give the folder that holds them and config.json: {path.parent}")
    if kind == ".gguf":
        raise ModelError(f"{path}: GGUF files are not built from. Give the Hugging Face folder they were made of.")
    raise ModelError(f"{path}: not a model that can be built. {_KINDS}")


_KINDS = (
    "Give a folder with config.json and *.safetensors, an .onnx file, torchvision:NAME, or a Hugging Face id ORG/NAME."
)


def _hub_id(text: str) -> str:
    """The id that ``text`` is, where it is nothing on this disk. Raises ModelError."""
    name = text.removeprefix(HUB)
    explicit = name != text and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name)
    path = Path(text).expanduser()
    # A folder beside what is here, misspelt, is likelier than an organisation of that name.
    if explicit or (HUB_ID.fullmatch(text) and path.suffix != ".onnx" and not path.parent.is_dir()):
        return name
    raise ModelError(f"{text}: there is no such file or folder.{_nearest(path)} {_KINDS}")


def _nearest(path: Path) -> str:
    """A hint at what is called nearly the same in the same folder."""
    try:
        beside = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f" There is no folder {path.parent} either." if path.parent != Path() else ""
    found = difflib.get_close_matches(path.name, beside, n=1)
    return f" Did you mean {path.parent / found[0]}?" if found else ""
