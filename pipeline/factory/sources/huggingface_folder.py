"""A folder as Hugging Face's ``save_pretrained`` leaves it: checked to be data alone, before a family reads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError
from pipeline.factory.family import Source
from pipeline.factory.sources.json_file import read_json_object

__all__ = ["CONFIG", "read_folder"]

CONFIG = "config.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
OTHERS = ("*.gguf", "*.h5", "*.msgpack", "*.onnx")


def read_folder(folder: Path, *, origin: str) -> Source:
    """The source that a folder is.

    Args:
        folder: holds ``config.json`` and ``*.safetensors``.
        origin: what to call it in messages and in the card.

    Raises:
        ModelError: ``config.json`` is missing, unreadable, or asks for code of the model's own to be run; or there are
            no weights in safetensors.
    """
    config = _read_config(folder, origin)
    if "auto_map" in config:
        raise ModelError(
            f"{origin}: its config.json wants Python code of the model's own to be run (auto_map), and Millrace runs "
            "no code from models. Look for the model in an architecture that transformers itself has, or "
            "export it to ONNX where you trust it and build from that file."
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{origin}: {_without_weights(folder)}")
    architectures = config.get("architectures")
    if not (isinstance(architectures, list) and architectures and isinstance(architectures[0], str)):
        raise ModelError(
            f"{origin}: its config.json does not name what the model is (architectures). Add it, such as "
            '"architectures": ["BertForSequenceClassification"].'
        )
    return Source(
        kind="huggingface",
        origin=origin,
        path=folder,
        config=config,
        architecture=architectures[0],
        license=_license(folder),
    )


def _read_config(folder: Path, origin: str) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(f"{origin}: there is no config.json in this folder.{_elsewhere(folder)}")
    return read_json_object(path)


def _elsewhere(folder: Path) -> str:
    """Where the model may be instead."""
    if graphs := sorted(folder.glob("*.onnx")):
        return f" For an ONNX file give the file itself: {graphs[0]}"
    if nested := sorted(folder.glob(f"*/{CONFIG}")):
        return f" There is one in {nested[0].parent}: did you mean that?"
    return " It is written by save_pretrained, and it says what network the weights are for."


def _without_weights(folder: Path) -> str:
    found = sorted(path.name for pattern in (*PICKLES, *OTHERS) for path in folder.glob(pattern))
    if any(Path(name).match(pattern) for name in found for pattern in PICKLES):
        return (
            f"its weights are pickles alone ({', '.join(found[:3])}), which may run code when they are read. Save them "
            "as model.safetensors where you trust them: transformers' save_pretrained does so."
        )
    here = f"only {', '.join(found[:3])}" if found else "and no other weights"
    return (
        f"there is no *.safetensors in it, {here}. Millrace reads weights in safetensors alone. Of a model of the hub, "
        "pull requests often hold them: give one with --revision refs/pr/N."
    )


def _license(folder: Path) -> str:
    """As the front matter of the model's README says."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    front = text.split("---", 2)[1] if text.startswith("---") and text.count("---") > 1 else ""
    found = re.search(r"^license:\s*['\"]?([\w.+-]+)", front, re.MULTILINE)
    return found[1] if found else "unknown"
