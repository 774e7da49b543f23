"""The names of a classifier's classes: where they come from, and the file that they become beside its graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError
from pipeline.factory.family import Source

__all__ = ["LABELS", "labels_of", "write_labels"]

LABELS = "labels.txt"
FORM = "Labels are one line for each class, in the order of the network's outputs."


def labels_of(source: Source, classes: int, known: Mapping[Any, str] | Sequence[str] = ()) -> tuple[str, ...]:
    """The names of ``classes`` classes: from the user's file, or ``known``, or else numbered.

    Args:
        source: its hints may name a file.
        classes: how many the network has.
        known: names in order, or by number (``id2label`` of a Hugging Face config).

    Raises:
        ModelError: the user's file cannot be read or has another number of labels, or ``known`` does not count from 0.
    """
    if source.hints.labels is not None:
        return _read_labels(source.hints.labels, classes)
    names = _in_order(known, source.origin) if isinstance(known, Mapping) else known
    if len(names) != classes:
        return tuple(f"class {number}" for number in range(classes))
    return tuple(str(name) for name in names)


def write_labels(labels: Sequence[str], folder: Path) -> None:
    """Write :data:`LABELS`, one a line; breaks and runs of space in a label become one space."""
    lines = (f"{' '.join(label.split())}\n" for label in labels)
    (folder / LABELS).write_text("".join(lines), encoding="utf-8")


def _in_order(known: Mapping[Any, str], where: str) -> Sequence[str]:
    try:
        names = {int(number): name for number, name in known.items()}
        return [names[number] for number in range(len(known))]
    except (KeyError, ValueError, TypeError) as error:
        numbers = ", ".join(str(number) for number in list(known)[:5]) + (", ..." if len(known) > 5 else "")
        raise ModelError(
            f"{where}: config.json numbers its labels {numbers} (id2label), and not 0 to {len(known) - 1}. Number them "
            "anew, or name them with --labels FILE."
        ) from error


def _read_labels(path: Path, classes: int) -> tuple[str, ...]:
    try:
        labels = tuple(path.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: this is no text in UTF-8. {FORM}") from error
    except OSError as error:
        raise ModelError(f"{path}: the labels cannot be read: {error}.") from error
    if len(labels) != classes:
        raise ModelError(f"{path}: it has {len(labels)} labels, and the network has {classes} classes. {FORM}")
    return labels
