"""The figures of each task's comparison, on observations made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.errors import ModelError
from pipeline.factory.gates.gates import broken_bounds, compare, default_gate
from pipeline.factory.quantize.calibration import Observation
from pipeline.factory.recipes.recipe import Gate
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
    gate = Gate(at_least={"a": 0.5, "not measured": 1}, at_most={"b": 0.1})
    assert broken_bounds({"a": 0.5, "b": 0.1}, gate) == []
    assert broken_bounds({"a": 0.4, "b": float("nan")}, gate) == [
        "a is 0.4, at least 0.5 is asked",
        "b is nan, at most 0.1 is asked",
    ]


def test_the_gate_of_embeddings_asks_for_a_cosine_of_0_995() -> None:
    assert default_gate("embeddings").at_least["mean_cosine"] == 0.995
    assert default_gate("text-generation").at_most["perplexity_ratio"] == 1.03
