"""How far a variant may stray from FP32: one small comparison a task, and the bounds that each has by default."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.factory.gates.detection import compare_detections
from pipeline.factory.quantize.calibration import MAIN, Observation
from pipeline.factory.recipes.recipe import Gate
from pipeline.factory.samples import Sample
from schemas.messages import ClassificationOutput, Task

__all__ = ["broken_bounds", "compare", "default_gate"]

Floats = npt.NDArray[np.float32]
Observations = Sequence[Observation]
CLASSIFIER = Gate(at_least={"sure_agreement": 0.97}, at_most={"mean_kl": 0.06, "accuracy_lost": 0.01})
EMBEDDINGS = Gate(at_least={"mean_cosine": 0.995, "min_cosine": 0.97})
DECODER = Gate(at_most={"perplexity_ratio": 1.03, "mean_kl": 0.05})
GATES: dict[Task, Gate] = {
    "image-classification": CLASSIFIER,
    "text-classification": CLASSIFIER,
    "embeddings": EMBEDDINGS,
    "zero-shot-image-classification": Gate(
        at_least={**EMBEDDINGS.at_least, **{f"text_{name}": low for name, low in EMBEDDINGS.at_least.items()}}
    ),
    "object-detection": Gate(at_least={"matched_f1": 0.95}, at_most={"f1_lost": 0.01}),
    "text-generation": DECODER,
    "image-to-text": Gate(at_least={"vision_mean_cosine": 0.99}, at_most=DECODER.at_most),
}


def default_gate(task: Task) -> Gate:
    """The bounds of ``task``."""
    return GATES[task]


def broken_bounds(measured: Mapping[str, float], gate: Gate) -> list[str]:
    """What is out of its bound, in words; a figure that is not a number is. What was not measured is passed over."""
    pairs = [(name, bound, "at least") for name, bound in gate.at_least.items() if name in measured]
    broken = [(*pair, measured[pair[0]]) for pair in pairs if not measured[pair[0]] >= pair[1]]
    pairs = [(name, bound, "at most") for name, bound in gate.at_most.items() if name in measured]
    broken += [(*pair, measured[pair[0]]) for pair in pairs if not measured[pair[0]] <= pair[1]]
    return [f"{name} is {value}, {words} {bound} is asked" for name, bound, words, value in broken]


def compare(task: Task, full: Observations, ours: Observations, samples: Sequence[Sample]) -> dict[str, float]:
    """The figures of a variant's observations against FP32's, of the same samples.

    Raises:
        ModelError: the task is not one that answers batches, or there is nothing to compare.
    """
    if task not in _COMPARISONS or not full:
        raise ModelError(f"a model of task {task!r} cannot be compared on {len(full)} samples.")
    return {"samples": float(len(full)), **_COMPARISONS[task](full, ours, samples)}


def _classifiers(full: Observations, ours: Observations, samples: Sequence[Sample]) -> dict[str, float]:
    """As :func:`~pipeline.factory.gates.classifiers.compare_classifiers`; with labels, accuracy and macro F1 too."""
    one, other = (_shares(_stacked(side, MAIN, "logits")) for side in (full, ours))
    same, sure = one.argmax(axis=1) == other.argmax(axis=1), one.max(axis=1) > 0.5
    tiny = 1e-12
    divergence = (one * (np.log(one + tiny) - np.log(other + tiny))).sum(axis=1)
    figures = {
        "top1_agreement": float(same.mean()),
        "sure_agreement": float(same[sure].mean()) if sure.any() else 1.0,
        "mean_kl": float(divergence.mean()),
    }
    known = [place for place, sample in enumerate(samples) if sample.answer is not None]
    if known:
        right = [str(samples[place].answer) for place in known]
        before, after = ([_label(side[place]) for place in known] for side in (full, ours))
        figures |= _accuracies(right, before, after)
    return _rounded(figures)


def _accuracies(right: Sequence[str], before: Sequence[str], after: Sequence[str]) -> dict[str, float]:
    fp32, mine = (float(np.mean([a == b for a, b in zip(right, side, strict=True)])) for side in (before, after))
    return {
        "accuracy": mine,
        "fp32_accuracy": fp32,
        "accuracy_lost": fp32 - mine,
        "macro_f1": _macro_f1(right, after),
        "fp32_macro_f1": _macro_f1(right, before),
    }


def _macro_f1(right: Sequence[str], said: Sequence[str]) -> float:
    """The mean over the classes of 2 * hits / (times right + times said)."""
    scores = []
    for label in set(right):
        hits = sum(a == b == label for a, b in zip(right, said, strict=True))
        scores.append(2 * hits / (sum(a == label for a in right) + sum(b == label for b in said)))
    return float(np.mean(scores))


def _label(observation: Observation) -> str:
    answer = observation.answer
    return answer.labels[0].label if isinstance(answer, ClassificationOutput) and answer.labels else ""


def _embeddings(full: Observations, ours: Observations, samples: Sequence[Sample]) -> dict[str, float]:  # noqa: ARG001
    return _rounded(_vectors(_stacked(full, MAIN, "embedding"), _stacked(ours, MAIN, "embedding")))


def _towers(full: Observations, ours: Observations, samples: Sequence[Sample]) -> dict[str, float]:  # noqa: ARG001
    figures: dict[str, float] = {}
    for role, prefix in ((MAIN, ""), ("text", "text_")):
        seen = [place for place, one in enumerate(full) if role in one.outputs]
        if seen:
            one, other = (_stacked([side[place] for place in seen], role, "embedding") for side in (full, ours))
            figures |= {prefix + name: value for name, value in _vectors(one, other).items()}
    return _rounded(figures)


def _vectors(one: Floats, other: Floats) -> dict[str, float]:
    """Cosines, and how often the nearest other sample is the same one."""
    one, other = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (one, other))
    cosines = (one * other).sum(axis=1)
    figures = {"mean_cosine": float(cosines.mean()), "min_cosine": float(cosines.min())}
    if len(one) > 2:
        near = [(side @ side.T - 4 * np.eye(len(side))).argmax(axis=1) for side in (one, other)]
        figures["nearest_agreement"] = float((near[0] == near[1]).mean())
    return figures


def _stacked(side: Observations, role: str, output: str) -> Floats:
    return np.concatenate([one.outputs[role][output] for one in side])


def _shares(logits: Floats) -> npt.NDArray[Any]:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 7) for name, value in figures.items()}


_COMPARISONS: dict[Task, Callable[[Observations, Observations, Sequence[Sample]], dict[str, float]]] = {
    "image-classification": _classifiers,
    "text-classification": _classifiers,
    "embeddings": _embeddings,
    "zero-shot-image-classification": _towers,
    "object-detection": compare_detections,
}
