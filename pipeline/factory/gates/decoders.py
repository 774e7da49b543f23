"""Measures an INT8 decoder against its FP32 form, on conversations written for this."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.factory.gates.gate import INVARIANT
from pipeline.factory.gates.invariance import decoder_difference
from pipeline.runtime.session import DecoderSession, Floats, IntArray

__all__ = ["Logs", "compare_decoders", "gate_texts", "greedy", "predictions"]

Logs = npt.NDArray[np.float32]
STEPS = 12
"""Of the check that company changes nothing."""


def gate_texts() -> list[str]:
    """The questions and answers that decoders are measured on: paragraphs of ``gate_texts.txt``."""
    text = importlib.resources.files("pipeline.factory").joinpath("gate_texts.txt").read_text(encoding="utf-8")
    return [paragraph.strip() for paragraph in text.split("\n\n") if paragraph.strip()]


def predictions(
    decoder: DecoderSession, ids: IntArray, lengths: IntArray | None = None, images: Floats | None = None
) -> Iterator[Logs]:
    """Read ``ids`` [N, T] token by token, and give what is predicted at each place but the last: logs of probabilities.

    Each is float32 [rows, vocabulary], of those rows alone in which a token follows.

    Args:
        decoder: its caches are empty, and it has a slot for every row.
        ids: padded on the right.
        lengths: int64 [N], the tokens of each row; ``None`` for rows without padding.
        images: what stands in the places of the image's tokens: float32 [N, T, hidden].
    """
    for at, real in enumerate(_followed(ids, lengths)):
        step, filled = np.ascontiguousarray(ids[:, at : at + 1]), np.full(len(ids), at, np.int64)
        yield _log_softmax(decoder.step(0, step, filled, None if images is None else images[:, at : at + 1])[real])


def compare_decoders(
    reference: Iterable[Logs],
    candidate: DecoderSession,
    ids: IntArray,
    lengths: IntArray | None = None,
    images: Floats | None = None,
) -> dict[str, float]:
    """Compare what a decoder predicts with what FP32 predicts of the same texts.

    Args:
        reference: :func:`predictions` of the FP32 form.
        candidate: what is measured; its caches are empty, with a slot for every row, and 2 at least.
        ids: as of :func:`predictions`.
        lengths: likewise.
        images: likewise, for the candidate.

    Returns:
        ``top1_agreement``: share of positions with the same likeliest token; ``mean_kl``: mean Kullback-Leibler
        divergence from the reference's distribution, in nats; ``perplexity`` and ``fp32_perplexity`` of the tokens that
        really follow, and ``perplexity_ratio``, the first over the second; ``positions``: how many were compared;
        ``samples``: the rows; ``prompt_mean_kl``: the mean divergence of what the candidate predicts after a row that
        it reads at once, as prompts are, from what it predicts there step by step; and
        ``max_difference_in_other_batches`` as :func:`decoder_difference` finds it.
    """
    agreements, divergences, losses = [], [], []
    last: dict[int, tuple[int, Logs]] = {}
    both = zip(reference, predictions(candidate, ids, lengths, images), _followed(ids, lengths), strict=True)
    for at, (full, ours, real) in enumerate(both):
        agreements.append(full.argmax(axis=1) == ours.argmax(axis=1))
        divergences.append((np.exp(full) * (full - ours)).sum(axis=1))
        following = (np.arange(len(full)), ids[real, at + 1])
        losses.append(np.stack([-full[following], -ours[following]]))
        last |= {row: (at + 1, logs.copy()) for row, logs in zip(np.flatnonzero(real).tolist(), ours, strict=True)}
    fp32, int8 = np.exp(np.mean(np.concatenate(losses, axis=1), axis=1))
    return {
        "top1_agreement": round(float(np.mean(np.concatenate(agreements))), 4),
        "mean_kl": round(float(np.mean(np.concatenate(divergences))), 6),
        "perplexity": round(float(int8), 3),
        "fp32_perplexity": round(float(fp32), 3),
        "perplexity_ratio": round(float(int8 / fp32), 5),
        "positions": float(sum(map(len, agreements))),
        "samples": float(len(ids)),
        "prompt_mean_kl": round(_prompt_divergence(candidate, ids, last, images), 6),
        INVARIANT: decoder_difference(candidate, ids[:, :STEPS]),
    }


def _prompt_divergence(
    decoder: DecoderSession, ids: IntArray, last: Mapping[int, tuple[int, Logs]], images: Floats | None
) -> float:
    """``last`` holds of each row how many tokens were read step by step, and what was predicted then."""
    found = []
    for row, (end, stepped) in last.items():
        image = None if images is None else images[row : row + 1, :end]
        (read,) = _log_softmax(decoder.step(0, ids[row : row + 1, :end], np.zeros(1, np.int64), image))
        found.append((np.exp(stepped) * (stepped - read)).sum())
    return abs(float(np.mean(found)))


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


def _followed(ids: IntArray, lengths: IntArray | None) -> list[npt.NDArray[np.bool_]]:
    """Of each place but the last, in which rows a token follows."""
    count, longest = ids.shape
    ends = np.full(count, longest) if lengths is None else lengths
    return [at + 1 < ends for at in range(longest - 1)]


def _log_softmax(logits: Logs) -> Logs:
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs: Logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs
