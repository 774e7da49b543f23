"""Scores become labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import ModelError
from pipeline.runtime.session import Floats
from schemas.messages import Label

__all__ = ["read_labels", "top_labels"]


def top_labels(logits: Floats, labels: Sequence[str], top_k: int) -> tuple[Label, ...]:
    """The ``top_k`` likeliest labels, best first, with their softmax probability. ``logits`` is float32 [classes]."""
    weights = np.exp(logits.astype(np.float64) - float(logits.max()))
    scores = weights / weights.sum()
    best = np.argsort(-scores, kind="stable")[:top_k]
    return tuple(Label(label=labels[i], score=round(float(scores[i]), 6)) for i in best)


def read_labels(file: Path) -> tuple[str, ...]:
    """The lines of a labels file. Raises ModelError."""
    try:
        return tuple(file.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{file}: the labels cannot be read: {error}") from error
