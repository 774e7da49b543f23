"""Measures an INT8 decoder against its FP32 form, on conversations written for this."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.runtime.session import DecoderSession, IntArray

__all__ = ["compare_decoders", "gate_texts", "greedy"]

Logs = npt.NDArray[np.float32]


def gate_texts() -> list[str]:
    """The questions and answers that decoders are measured on: paragraphs of ``gate_texts.txt``."""
    text = importlib.resources.files("pipeline.factory").joinpath("gate_texts.txt").read_text(encoding="utf-8")
    return [paragraph.strip() for paragraph in text.split("\n\n") if paragraph.strip()]


def compare_decoders(reference: DecoderSession, candidate: DecoderSession, ids: IntArray) -> dict[str, float]:
    """Read ``ids`` [N, T] token by token with both decoders, whose caches are empty, and compare what they predict.

    Returns:
        ``top1_agreement``: share of positions with the same likeliest token; ``mean_kl``: mean Kullback-Leibler
        divergence from the reference's distribution, in nats; ``perplexity`` and ``fp32_perplexity`` of the tokens that
        really follow; ``positions``: how many were compared.
    """
    count, length = ids.shape
    agreements, divergences, losses = [], [], []
    for at in range(length - 1):
        step, lengths = np.ascontiguousarray(ids[:, at : at + 1]), np.full(count, at, np.int64)
        full = _log_softmax(reference.step(0, step, lengths))
        ours = _log_softmax(candidate.step(0, step, lengths))
        agreements.append(full.argmax(axis=1) == ours.argmax(axis=1))
        divergences.append((np.exp(full) * (full - ours)).sum(axis=1))
        following = (np.arange(count), ids[:, at + 1])
        losses.append((-full[following], -ours[following]))
    fp32, int8 = np.exp(np.mean(losses, axis=(0, 2)))
    return {
        "top1_agreement": round(float(np.mean(agreements)), 4),
        "mean_kl": round(float(np.mean(divergences)), 6),
        "perplexity": round(float(int8), 3),
        "fp32_perplexity": round(float(fp32), 3),
        "positions": float(count * (length - 1)),
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
