"""Which figures there are of a task, so that a gate that names another one is refused before anything is made."""

from __future__ import annotations

from difflib import get_close_matches

from pipeline.errors import ModelError
from pipeline.factory.gates.gate import INVARIANT, Gate
from schemas.messages import Task

__all__ = ["check_names", "known_figures", "needing_answers"]

CLASSES = ("top1_agreement", "sure_agreement", "mean_kl")
RIGHT_CLASSES = ("accuracy", "fp32_accuracy", "accuracy_lost", "macro_f1", "fp32_macro_f1")
VECTORS = ("mean_cosine", "min_cosine", "nearest_agreement", "nearest_as_good")
TOKENS = (
    "top1_agreement",
    "mean_kl",
    "perplexity",
    "fp32_perplexity",
    "perplexity_ratio",
    "positions",
    "prompt_mean_kl",
)
FIGURES: dict[Task, tuple[str, ...]] = {
    "image-classification": CLASSES,
    "text-classification": CLASSES,
    "embeddings": VECTORS,
    "zero-shot-image-classification": (*VECTORS, *(f"text_{name}" for name in VECTORS)),
    "object-detection": ("matched_f1", "objects"),
    "text-generation": TOKENS,
    "image-to-text": (*TOKENS, "vision_mean_cosine"),
}
WITH_ANSWERS: dict[Task, tuple[str, ...]] = {
    "image-classification": RIGHT_CLASSES,
    "text-classification": RIGHT_CLASSES,
    "object-detection": ("f1", "fp32_f1", "f1_lost"),
}


def needing_answers(task: Task) -> tuple[str, ...]:
    """The figures of ``task`` that only samples with the right answer give."""
    return WITH_ANSWERS.get(task, ())


def known_figures(task: Task, *, answered: bool = True) -> list[str]:
    """The figures that a variant of ``task`` is measured by, on samples with right answers or without any."""
    return ["samples", *FIGURES[task], *(needing_answers(task) if answered else ()), INVARIANT]


def check_names(gate: Gate, task: Task, *, answered: bool = True) -> None:
    """Raise ModelError for a bound of a figure that nothing measures, and name the nearest that there is."""
    names, known = sorted({*gate.at_least, *gate.at_most}), known_figures(task, answered=answered)
    for name in (name for name in names if name not in known):
        if name in needing_answers(task):
            raise ModelError(
                f"the gate names {name}, which is not measured here: it takes evaluation samples with the right answer."
            )
        near = "".join(f" Is {one} meant?" for one in get_close_matches(name, known, 1))
        raise ModelError(
            f"the gate names {name}, which is not measured here.{near} There are {', '.join(sorted(known))}."
        )
