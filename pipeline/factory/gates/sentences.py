"""Measures a sentence encoder against its FP32 form, and holds the sentences that both are made to read."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import numpy.typing as npt

__all__ = ["compare_embeddings", "sentence_groups"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
# Cosines this near are a tie between paraphrases, which rounding may break either way.
TIE = 0.01


def sentence_groups() -> list[list[str]]:
    """Groups of four sentences that say the same, each in other words."""
    text = files("pipeline.factory").joinpath("gate_sentences.txt").read_text(encoding="utf-8")
    return [group.splitlines() for group in text.strip().split("\n\n")]


def compare_embeddings(full: Floats, ours: Floats) -> dict[str, float]:
    """Compare embeddings [N, dimensions], which need not be of unit length, ``full`` being the reference.

    Returns:
        ``mean_cosine`` and ``min_cosine`` between the two of a text; for 3 or more, ``nearest_agreement``: the share of
        texts whose nearest other text is the same; and ``nearest_as_good``: the share of those whose nearest is, by the
        reference, the nearest or behind it by 0.01 of cosine at most.
    """
    one, other = _unit(full), _unit(ours)
    cosines = (one * other).sum(axis=1)
    figures = {"mean_cosine": cosines.mean(), "min_cosine": cosines.min()}
    if len(one) > 2:
        between, rows = one @ one.T, np.arange(len(one))
        nearest, found = _nearest(one), _nearest(other)
        figures["nearest_agreement"] = (nearest == found).mean()
        figures["nearest_as_good"] = (between[rows, found] >= between[rows, nearest] - TIE).mean()
    return {name: round(float(value), 7) for name, value in figures.items()}


def _unit(rows: Floats) -> Doubles:
    wide = rows.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True))


def _nearest(rows: Doubles) -> npt.NDArray[np.int64]:
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -np.inf)
    found: npt.NDArray[np.int64] = cosines.argmax(axis=1)
    return found
