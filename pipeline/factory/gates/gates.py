"""How far a variant may stray from FP32: one small comparison a task, and the bounds that each has by default."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.factory.gates.classifiers import compare_logits
from pipeline.factory.gates.detection import compare_detections
from pipeline.factory.gates.figures import needing_answers
from pipeline.factory.gates.gate import Gate
from pipeline.factory.gates.sentences import compare_embeddings
from pipeline.factory.quantize.calibration import MAIN, Observation
from pipeline.factory.samples import Sample
from schemas.messages import ClassificationOutput, Task

__all__ = ["compare", "default_gate"]

Floats = npt.NDArray[np.float32]
Observations = Sequence[Observation]
CLASSIFIER = Gate(at_least={"sure_agreement": 0.97}, at_most={"mean_kl": 0.06, "accuracy_lost": 0.01})
EMBEDDINGS = Gate(at_least={"mean_cosine": 0.995, "min_cosine": 0.97})
DECODER = Gate(at_most={"perplexity_ratio": 1.03, "mean_kl": 0.05, "prompt_mean_kl": 0.02})
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


def default_gate(task: Task, *, answered: bool = True) -> Gate:
    """The bounds of ``task``; without those that take right answers, where no sample has one (``answered``)."""
    gate, missing = GATES[task], () if answered else needing_answers(task)
    return Gate(
        at_least={name: low for name, low in gate.at_least.items() if name not in missing},
        at_most={name: high for name, high in gate.at_most.items() if name not in missing},
    )


def compare(task: Task, full: Observations, ours: Observations, samples: Sequence[Sample]) -> dict[str, float]:
    """The figures of a variant's observations against FP32's, of the same samples.

    Raises:
        ModelError: the task is not one that answers batches, or there is nothing to compare.
    """
    if task not in _COMPARISONS or not full:
        raise ModelError(f"a model of task {task!r} cannot be compared on {len(full)} samples.")
    return {"samples": float(len(full)), **_COMPARISONS[task](full, ours, samples)}


def _classifiers(full: Observations, ours: Observations, samples: Sequence[Sample]) -> dict[str, float]:
    """As :func:`compare_logits`; with labels, accuracy and macro F1 too."""
    figures = compare_logits(*(_stacked(side, MAIN, "logits") for side in (full, ours)))
    known = [place for place, sample in enumerate(samples) if sample.answer is not None]
    if known:
        right = [str(samples[place].answer) for place in known]
        before, after = ([_label(side[place]) for place in known] for side in (full, ours))
        figures |= _accuracies(right, before, after)
    return figures


def _accuracies(right: Sequence[str], before: Sequence[str], after: Sequence[str]) -> dict[str, float]:
    fp32, mine = (float(np.mean([a == b for a, b in zip(right, side, strict=True)])) for side in (before, after))
    figures = {
        "accuracy": mine,
        "fp32_accuracy": fp32,
        "accuracy_lost": fp32 - mine,
        "macro_f1": _macro_f1(right, after),
        "fp32_macro_f1": _macro_f1(right, before),
    }
    return {name: round(value, 7) for name, value in figures.items()}


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
    return compare_embeddings(_stacked(full, MAIN, "embedding"), _stacked(ours, MAIN, "embedding"))


def _towers(full: Observations, ours: Observations, samples: Sequence[Sample]) -> dict[str, float]:  # noqa: ARG001
    figures: dict[str, float] = {}
    for role, prefix in ((MAIN, ""), ("text", "text_")):
        seen = [place for place, one in enumerate(full) if role in one.outputs]
        if seen:
            one, other = (_stacked([side[place] for place in seen], role, "embedding") for side in (full, ours))
            figures |= {prefix + name: value for name, value in compare_embeddings(one, other).items()}
    return figures


def _stacked(side: Observations, role: str, output: str) -> Floats:
    return np.concatenate([one.outputs[role][output] for one in side])


_COMPARISONS: dict[Task, Callable[[Observations, Observations, Sequence[Sample]], dict[str, float]]] = {
    "image-classification": _classifiers,
    "text-classification": _classifiers,
    "embeddings": _embeddings,
    "zero-shot-image-classification": _towers,
    "object-detection": compare_detections,
}
