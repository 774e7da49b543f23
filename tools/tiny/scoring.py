"""How well the decoders predict the held-out dialogues, read through the sessions that serve them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.runtime.session import DecoderSession

__all__ = ["answer_mask", "compare_on_dialogues", "read_dialogues"]

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def read_dialogues(decoder: DecoderSession, dialogues: Sequence[list[int]]) -> list[Floats]:
    """What ``decoder`` expects after each token of each dialogue: log-probabilities [tokens - 1, vocabulary].

    All dialogues are read side by side, one slot each, a token a step; the slots must be at least as many.
    """
    length = max(map(len, dialogues))
    ids = np.array([dialogue + [0] * (length - len(dialogue)) for dialogue in dialogues], np.int64)
    steps = []
    for at in range(length - 1):
        lengths = np.full(len(dialogues), at, np.int64)
        steps.append(_log_softmax(decoder.step(0, np.ascontiguousarray(ids[:, at : at + 1]), lengths)))
    whole = np.stack(steps, axis=1)
    return [whole[row, : len(dialogue) - 1] for row, dialogue in enumerate(dialogues)]


def answer_mask(dialogue: Sequence[int], begins: int, ends: int) -> Mask:
    """For each token but the first: whether the assistant wrote it; answers stand between ``begins`` and ``ends``."""
    inside, mask = False, []
    for token in dialogue:
        mask.append(inside)
        inside = token != ends and (inside or token == begins)
    return np.array(mask[1:], np.bool_)


def compare_on_dialogues(
    reference: Sequence[Floats], candidate: Sequence[Floats], dialogues: Sequence[list[int]], masks: Sequence[Mask]
) -> dict[str, float]:
    """Compare two decoders that read the same dialogues.

    Returns:
        ``perplexity`` (of the candidate) and ``fp32_perplexity`` (of the reference) over all tokens;
        ``answer_perplexity`` and ``fp32_answer_perplexity`` over the assistant's; ``top1_agreement``: share of
        positions with the same likeliest token; ``mean_kl``: mean Kullback-Leibler divergence
        from the reference, in nats.
    """
    full, ours = np.concatenate(reference), np.concatenate(candidate)
    following = np.concatenate([np.array(dialogue[1:]) for dialogue in dialogues])
    answers = np.concatenate(masks)
    rows = np.arange(len(following))
    figures: dict[str, float] = {}
    for prefix, logs in (("", ours), ("fp32_", full)):
        losses = -logs[rows, following]
        figures[f"{prefix}perplexity"] = round(float(np.exp(losses.mean())), 3)
        figures[f"{prefix}answer_perplexity"] = round(float(np.exp(losses[answers].mean())), 3)
    figures["top1_agreement"] = round(float((full.argmax(axis=1) == ours.argmax(axis=1)).mean()), 4)
    figures["mean_kl"] = round(float((np.exp(full) * (full - ours)).sum(axis=1).mean()), 6)
    return figures | {"positions": float(len(rows))}


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs
