"""Measures an INT8 sentence encoder against its FP32 form, and holds the sentences that both are made to read."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import numpy.typing as npt

__all__ = ["compare_embeddings", "sentence_groups"]

Floats = npt.NDArray[np.float32]
# Cosines this near are a tie between paraphrases, which rounding may break either way.
TIE = 0.01


def sentence_groups() -> list[list[str]]:
    """Groups of four sentences that say the same, each in other words."""
    text = files("pipeline.factory").joinpath("gate_sentences.txt").read_text(encoding="utf-8")
    return [group.splitlines() for group in text.strip().split("\n\n")]


def compare_embeddings(full: Floats, ours: Floats) -> dict[str, float]:
    """Compare embeddings [N, dimensions] of unit length, ``full`` being the reference; N is 3 or more.

    Returns:
        ``mean_cosine`` and ``min_cosine`` between the two of a text; ``nearest_agreement``: the share of texts whose
        nearest other text is the same; ``nearest_as_good``: the share of those whose nearest is, by the reference, the
        nearest or behind it by 0.01 of cosine at most; ``texts``: how many were compared.
    """
    cosines = (full * ours).sum(axis=1)
    between = full @ full.T
    nearest, found = _nearest(full), _nearest(ours)
    rows = np.arange(len(full))
    as_good = between[rows, found] >= between[rows, nearest] - TIE
    return {
        "mean_cosine": round(float(cosines.mean()), 5),
        "min_cosine": round(float(cosines.min()), 5),
        "nearest_agreement": round(float((nearest == found).mean()), 4),
        "nearest_as_good": round(float(as_good.mean()), 4),
        "texts": float(len(full)),
    }


def _nearest(rows: Floats) -> npt.NDArray[np.int64]:
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -np.inf)
    found: npt.NDArray[np.int64] = cosines.argmax(axis=1)
    return found
