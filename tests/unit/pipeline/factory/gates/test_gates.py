"""The figures of each task's comparison, on observations made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.errors import ModelError
from pipeline.factory.gates.classifiers import compare_logits
from pipeline.factory.gates.figures import known_figures
from pipeline.factory.gates.gate import Gate, broken_bounds, broken_invariance
from pipeline.factory.gates.gates import compare, default_gate
from pipeline.factory.gates.sentences import compare_embeddings
from pipeline.factory.quantize.calibration import Observation
from pipeline.factory.samples import Sample
from schemas.messages import Box, ClassificationOutput, DetectedObject, DetectionOutput, Label


def seen(answer: Any = None, role: str = "main", **outputs: list[float]) -> Observation:
    arrays = {name: np.array([values], np.float32) for name, values in outputs.items()}
    return Observation(feeds={}, outputs={role: arrays}, answer=answer)


def classified(label: str, *logits: float) -> Observation:
    return seen(ClassificationOutput(labels=(Label(label=label, score=1.0),)), logits=list(logits))


def test_classifiers_are_compared_by_their_likeliest_class_and_by_the_right_one() -> None:
    full = [classified("a", 9, 0), classified("b", 0, 9), classified("a", 0.1, 0)]
    ours = [classified("a", 9, 0), classified("b", 0, 9), classified("b", 0, 0.1)]
    samples = [Sample(text="x", answer=answer) for answer in ("a", "b", "a")]
    figures = compare("text-classification", full, ours, samples)
    assert figures["top1_agreement"] == pytest.approx(2 / 3, abs=1e-5)
    assert figures["mean_kl"] == pytest.approx(0.1 * np.tanh(0.05) / 3, abs=1e-6)
    assert figures["accuracy"] == pytest.approx(2 / 3, abs=1e-5)
    assert figures["fp32_accuracy"] == 1
    assert figures["macro_f1"] == pytest.approx(2 / 3, abs=1e-5)


def test_embeddings_are_compared_by_cosine_and_by_the_nearest_other() -> None:
    vectors = ([1.0, 0.0], [0.9, 0.1], [0.0, 1.0])
    full = [seen(embedding=vector) for vector in vectors]
    assert compare("embeddings", full, full, [])["min_cosine"] == pytest.approx(1)
    ours = [seen(embedding=vector) for vector in ([1.0, 0.0], [0.4, 0.6], [0.0, 1.0])]
    figures = compare("embeddings", full, ours, [])
    assert figures["min_cosine"] == pytest.approx((0.9 * 0.4 + 0.1 * 0.6) / np.sqrt(0.82 * 0.52), abs=1e-5)
    assert figures["nearest_agreement"] == pytest.approx(2 / 3, abs=1e-5)


def test_both_towers_of_a_zero_shot_model_are_compared() -> None:
    full = [seen(embedding=[1.0, 0.0]), seen(role="text", embedding=[0.0, 1.0])]
    ours = [seen(embedding=[1.0, 0.0]), seen(role="text", embedding=[1.0, 1.0])]
    figures = compare("zero-shot-image-classification", full, ours, [])
    assert figures["mean_cosine"] == 1
    assert figures["text_mean_cosine"] == pytest.approx(0.5**0.5, abs=1e-5)


def detected(*objects: tuple[str, float]) -> Observation:
    """Squares of 10 x 10 pixels that begin at ``x``."""
    boxes = [(label, Box(xmin=x, ymin=0, xmax=x + 10, ymax=10)) for label, x in objects]
    found = tuple(DetectedObject(label=label, score=0.9, box=box) for label, box in boxes)
    return Observation(feeds={}, outputs={}, answer=DetectionOutput(objects=found))


def test_detections_match_by_class_and_overlap() -> None:
    full = [detected(("cat", 0), ("dog", 50)), detected()]
    ours = [detected(("cat", 2), ("cat", 50)), detected()]  # the first overlaps by 8 of 12, the second is another class
    samples = [Sample(image=b"x", answer='[{"label": "cat", "box": [0, 0, 10, 10]}]'), Sample(image=b"y")]
    figures = compare("object-detection", full, ours, samples)
    assert figures["matched_f1"] == 0.5
    assert figures["f1"] == figures["fp32_f1"] == pytest.approx(2 / 3, abs=1e-4)
    with pytest.raises(ModelError, match="sample 1: a detector's answer is a JSON array"):
        compare("object-detection", full, ours, [Sample(image=b"x", answer="cat")])


def test_bounds_are_broken_by_what_is_out_of_them_and_by_what_is_no_number() -> None:
    gate = Gate(at_least={"a": 0.5}, at_most={"b": 0.1})
    assert broken_bounds({"a": 0.5, "b": 0.1}, gate) == []
    assert broken_bounds({"a": 0.4, "b": float("nan")}, gate) == [
        "a is 0.4, at least 0.5 is asked",
        "b is nan, at most 0.1 is asked",
    ]


def test_a_figure_that_was_not_measured_breaks_its_bound() -> None:
    gate = Gate(at_least={"a": 0.5}, at_most={"b": 0.1})
    assert broken_bounds({}, gate) == [
        "a was not measured, at least 0.5 is asked",
        "b was not measured, at most 0.1 is asked",
    ]


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        ({}, ["max_difference_in_other_batches was not measured"]),
        ({"max_difference_in_other_batches": 0.0}, []),
        (
            {"max_difference_in_other_batches": 0.5},
            ["it is not batch-invariant: a result moves by 0.5 when other records share its batch"],
        ),
    ],
    ids=["not measured", "0", "0.5"],
)
def test_nothing_but_a_measured_0_shows_batch_invariance(measured: dict[str, float], said: list[str]) -> None:
    assert broken_invariance(measured) == said


def test_what_takes_right_answers_is_asked_only_where_there_are_some() -> None:
    assert default_gate("text-classification").at_most["accuracy_lost"] == 0.01
    assert "accuracy_lost" not in default_gate("text-classification", answered=False).at_most


def test_a_classifier_has_the_same_figures_in_a_recipe_and_in_its_task() -> None:
    one, other = (np.random.default_rng(seed).normal(size=(9, 3)).astype(np.float32) for seed in range(2))
    full, ours = ([seen(logits=list(row)) for row in side] for side in (one, other))
    figures = compare("text-classification", full, ours, [Sample(text="x")] * 9)
    assert figures == {"samples": 9, **compare_logits(one, other)}


def test_an_embedder_has_the_same_figures_in_a_recipe_and_in_its_task() -> None:
    one, other = (np.random.default_rng(seed).normal(size=(9, 3)).astype(np.float32) for seed in range(2))
    full, ours = ([seen(embedding=list(row)) for row in side] for side in (one, other))
    figures = compare("embeddings", full, ours, [])
    assert figures == {"samples": 9, **compare_embeddings(one, other)}


def test_the_figures_that_a_gate_may_bound_are_those_that_are_measured() -> None:
    answers = [classified("a", 9, 0), classified("b", 0, 9)]
    figures = compare("image-classification", answers, answers, [Sample(text="x", answer="a")] * 2)
    assert {*figures, "max_difference_in_other_batches"} == set(known_figures("image-classification"))
    boxes, answer = [detected(("cat", 0))], '[{"label": "cat", "box": [0, 0, 10, 10]}]'
    figures = compare("object-detection", boxes, boxes, [Sample(image=b"x", answer=answer)])
    assert {*figures, "max_difference_in_other_batches"} == set(known_figures("object-detection"))
    vectors = [seen(role=role, embedding=[1.0, low]) for role in ("main", "text") for low in (0.0, 0.5, 1.0)]
    figures = compare("zero-shot-image-classification", vectors, vectors, [])
    assert {*figures, "max_difference_in_other_batches"} == set(known_figures("zero-shot-image-classification"))
