"""Measures a classifier against its FP32 form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.runtime.session import Session

__all__ = ["compare_classifiers", "compare_logits"]

Floats = npt.NDArray[np.float32]
TINY = 1e-12


def compare_logits(full: Floats, ours: Floats) -> dict[str, float]:
    """Compare logits [N, classes], ``full`` being the reference.

    Returns:
        ``top1_agreement``: share of records with the same likeliest class; ``sure_agreement``: the same among records
        that the reference gives a class of over one half (1 where there is none); ``mean_kl``: mean Kullback-Leibler
        divergence from the reference's distribution, in nats.
    """
    one, other = _softmax(full), _softmax(ours)
    same, sure = one.argmax(axis=1) == other.argmax(axis=1), one.max(axis=1) > 0.5
    divergence = (one * (np.log(one + TINY) - np.log(other + TINY))).sum(axis=1)
    return {
        "top1_agreement": round(float(same.mean()), 7),
        "sure_agreement": round(float(same[sure].mean()), 7) if sure.any() else 1.0,
        "mean_kl": round(float(divergence.mean()), 7),
    }


def compare_classifiers(
    reference: Session, candidate: Session, batches: Iterable[Mapping[str, npt.NDArray[Any]]]
) -> dict[str, float]:
    """Classify ``batches`` with both: the figures of :func:`compare_logits`, and ``images``, how many there were."""
    pairs = [[session.run(batch)["logits"] for session in (reference, candidate)] for batch in batches]
    full, ours = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return {**compare_logits(full, ours), "images": float(len(full))}


def _softmax(logits: Floats) -> npt.NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
