"""Scores become labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.runtime.session import Floats
from schemas.messages import InferenceRequest, Label

__all__ = ["Scores", "asked_top_k", "check_labels", "read_labels", "sigmoid", "softmax", "top_labels"]

DEFAULT_TOP_K = 5
DECIMALS = 6
Scores = npt.NDArray[np.float64]


def softmax(logits: npt.NDArray[np.floating]) -> Scores:
    """The probabilities of classes that exclude each other, float64 [classes]."""
    exact = logits.astype(np.float64)
    weights = np.exp(exact - exact.max())
    scores: Scores = weights / weights.sum()
    return scores


def sigmoid(logits: Floats) -> Scores:
    """The probabilities of classes that do not, float64 [classes]; in a form that no logit makes overflow."""
    scores: Scores = 0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))
    return scores


def top_labels(scores: Scores, labels: Sequence[str], top_k: int) -> tuple[Label, ...]:
    """The ``top_k`` likeliest labels, best first; equal ones in the labels' order."""
    best = np.argsort(-scores, kind="stable")[:top_k]
    return tuple(Label(label=labels[place], score=round(float(scores[place]), DECIMALS)) for place in best)


def asked_top_k(request: InferenceRequest, default: int = DEFAULT_TOP_K) -> int:
    """How many labels or objects the request asks for."""
    return request.input.top_k or default


def read_labels(file: Path) -> tuple[str, ...]:
    """The lines of a labels file. Raises ModelError."""
    try:
        labels = tuple(file.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{file}: the labels cannot be read: {error}") from error
    if not labels:
        raise ModelError(f"{file}: it names no class. Build the model again with --labels.")
    return labels


def check_labels(row: Floats, labels: Sequence[str], path: Path, file: Path) -> None:
    """Check that a record's logits are one for each label. Raises ModelError."""
    if row.shape != (len(labels),):
        raise ModelError(
            f"{path}: a record gives logits of shape {row.shape}, but {file} has {len(labels)} labels. Pull or build "
            "the model again."
        )
