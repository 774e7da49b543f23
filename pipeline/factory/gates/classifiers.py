"""Measures an INT8 classifier against its FP32 form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.runtime.session import Session

__all__ = ["compare_classifiers"]

Floats = npt.NDArray[np.float32]


def compare_classifiers(
    reference: Session, candidate: Session, batches: Iterable[Mapping[str, npt.NDArray[Any]]]
) -> dict[str, float]:
    """Classify ``batches`` with both.

    Returns:
        ``top1_agreement``: share of images with the same likeliest class; ``sure_agreement``: the same among images
        that the reference gives a class of over one half; ``mean_kl``: mean Kullback-Leibler divergence from the
        reference's distribution, in nats; ``images``: how many were compared.
    """
    sessions = (reference, candidate)
    pairs = [[_softmax(session.run(batch)["logits"]) for session in sessions] for batch in batches]
    full, ours = (np.concatenate(part) for part in zip(*pairs, strict=True))
    same = full.argmax(axis=1) == ours.argmax(axis=1)
    sure = full.max(axis=1) > 0.5
    tiny = np.float32(1e-12)
    divergence = (full * (np.log(full + tiny) - np.log(ours + tiny))).sum(axis=1)
    return {
        "top1_agreement": round(float(same.mean()), 4),
        "sure_agreement": round(float(same[sure].mean()), 4) if sure.any() else 1.0,
        "mean_kl": round(float(divergence.mean()), 5),
        "images": float(len(same)),
    }


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Floats = np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
    return shares
