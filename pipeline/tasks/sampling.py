"""The next token. Each request has a random generator of its own, so its answer does not depend on its batch mates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.runtime.session import Logits

__all__ = ["choose_token", "generator"]

Probabilities = npt.NDArray[np.float64]


def generator(seed: int | None, outcome_id: str) -> np.random.Generator:
    """The request's generator. Without a seed it follows from the outcome's id, so a repeat gives the same answer."""
    return np.random.Generator(np.random.PCG64(int(outcome_id, 16) if seed is None else seed))


def choose_token(logits: Logits, temperature: float, top_p: float, random: np.random.Generator) -> int:
    """Choose the next token.

    Temperature 0 takes the likeliest one. Otherwise tokens are drawn from the softmax of ``logits / temperature``,
    limited to the smallest set of likeliest tokens whose probability reaches ``top_p`` (nucleus sampling, Holtzman et
    al. 2020, arXiv:1904.09751).

    Args:
        logits: float32 [vocabulary], the largest one finite.
        temperature: 0 to 2.
        top_p: above 0, to 1.
        random: gives one number for each token drawn.
    """
    if temperature == 0.0:
        return int(logits.argmax())
    # A copy in float64: rounding must not depend on the row of the batch that the logits stood in.
    scaled = logits.astype(np.float64)
    # In place of what overflows there is -inf, whose weight is 0: the limit of ever lower temperatures.
    with np.errstate(over="ignore"):
        weights = np.exp((scaled - scaled.max()) / temperature)
    probabilities = weights / weights.sum()
    tokens = _nucleus(probabilities, top_p) if top_p < 1.0 else np.arange(len(probabilities))
    return int(tokens[_draw(probabilities[tokens], random)])


def _nucleus(probabilities: Probabilities, top_p: float) -> npt.NDArray[np.intp]:
    # All tokens below this bound together weigh less than 1 - top_p: none is in the nucleus, and few are left to sort.
    likely = np.flatnonzero(probabilities >= (1.0 - top_p) / len(probabilities))
    ranked = likely[np.argsort(-probabilities[likely], kind="stable")]
    inside = int(np.searchsorted(np.cumsum(probabilities[ranked]), top_p)) + 1
    return ranked[:inside]


def _draw(weights: Probabilities, random: np.random.Generator) -> int:
    edges = np.cumsum(weights)
    at = int(np.searchsorted(edges, random.random() * edges[-1], side="right"))
    return min(at, len(weights) - 1)
