"""Measures an INT8 decoder against its FP32 form, on conversations written for this."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.factory.gates.gate import INVARIANT
from pipeline.factory.gates.invariance import decoder_difference
from pipeline.runtime.session import DecoderSession, Floats, IntArray

__all__ = ["compare_decoders", "gate_texts", "greedy"]

Logs = npt.NDArray[np.float32]
STEPS = 12
"""Of the check that company changes nothing."""


def gate_texts() -> list[str]:
    """The questions and answers that decoders are measured on: paragraphs of ``gate_texts.txt``."""
    text = importlib.resources.files("pipeline.factory").joinpath("gate_texts.txt").read_text(encoding="utf-8")
    return [paragraph.strip() for paragraph in text.split("\n\n") if paragraph.strip()]


def compare_decoders(
    reference: DecoderSession,
    candidate: DecoderSession,
    ids: IntArray,
    lengths: IntArray | None = None,
    images: tuple[Floats, Floats] | None = None,
) -> dict[str, float]:
    """Read ``ids`` [N, T] token by token with both decoders, whose caches are empty, and compare what they predict.

    Args:
        reference: the FP32 form.
        candidate: what is measured.
        ids: padded on the right; each decoder has a slot for every row, and 2 at least.
        lengths: int64 [N], the tokens of each row; ``None`` for rows without padding.
        images: what stands in the places of the image's tokens, for each decoder: float32 [N, T, hidden].

    Returns:
        ``top1_agreement``: share of positions with the same likeliest token; ``mean_kl``: mean Kullback-Leibler
        divergence from the reference's distribution, in nats; ``perplexity`` and ``fp32_perplexity`` of the tokens that
        really follow, and ``perplexity_ratio``, the first over the second; ``positions``: how many were compared;
        ``samples``: the rows; ``max_difference_in_other_batches`` as :func:`decoder_difference` finds it.
    """
    count, length = ids.shape
    ends = np.full(count, length) if lengths is None else lengths
    agreements, divergences, losses = [], [], []
    for at in range(length - 1):
        step, filled = np.ascontiguousarray(ids[:, at : at + 1]), np.full(count, at, np.int64)
        seen = [None, None] if images is None else [rows[:, at : at + 1] for rows in images]
        full = _log_softmax(reference.step(0, step, filled, seen[0]))
        ours = _log_softmax(candidate.step(0, step, filled, seen[1]))
        real = at + 1 < ends
        agreements.append((full.argmax(axis=1) == ours.argmax(axis=1))[real])
        divergences.append((np.exp(full) * (full - ours)).sum(axis=1)[real])
        following = (np.arange(count), ids[:, at + 1])
        losses.append(np.stack([-full[following], -ours[following]])[:, real])
    fp32, int8 = np.exp(np.mean(np.concatenate(losses, axis=1), axis=1))
    return {
        "top1_agreement": round(float(np.mean(np.concatenate(agreements))), 4),
        "mean_kl": round(float(np.mean(np.concatenate(divergences))), 6),
        "perplexity": round(float(int8), 3),
        "fp32_perplexity": round(float(fp32), 3),
        "perplexity_ratio": round(float(int8 / fp32), 5),
        "positions": float(np.maximum(ends - 1, 0).sum()),
        "samples": float(count),
        INVARIANT: decoder_difference(candidate, ids[:, :STEPS]),
    }


def greedy(decoder: DecoderSession, prompt: Sequence[int], count: int, is_end: Callable[[int], bool]) -> list[int]:
    """The ``count`` likeliest tokens after ``prompt``, fewer when one ends the answer; uses slot 0."""
    ids, answer, length = np.array([prompt], np.int64), list[int](), 0
    while len(answer) < count:
        token = int(decoder.step(0, ids, np.array([length], np.int64))[0].argmax())
        if is_end(token):
            break
        answer.append(token)
        length += ids.shape[1]
        ids = np.array([[token]], np.int64)
    return answer


def _log_softmax(logits: Logs) -> Logs:
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs: Logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs
