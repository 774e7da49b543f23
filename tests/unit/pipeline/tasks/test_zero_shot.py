from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.runtime.fakes import FakeBackend, fake_zero_shot
from pipeline.tasks.task import Answer
from schemas.errors import InferenceError, PrepareError
from schemas.messages import ClassificationOutput, EmbeddingOutput, InferenceRequest, Usage
from tests.unit.pipeline.helpers import answers, image_request, opened, text_request

LABELS = ("7 cats", "8 dogs", "9 birds")
"""The fake's axes 5, 6 and 7: the first byte modulo 10."""


def asking(shade: int, labels: tuple[str, ...] = LABELS, **fields: Any) -> InferenceRequest:
    return image_request(shade, model="fake-captions", candidate_labels=labels, **fields)


def named(answer: Answer) -> list[str]:
    assert isinstance(answer.output, ClassificationOutput)
    return [item.label for item in answer.output.labels]


class Counting(FakeBackend):
    """Notes the shape of every run."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        super().__init__(fault=self._note)

    def _note(self, inputs: Any) -> bool:
        self.shapes.append(inputs.shape)
        return False


def test_an_image_is_what_the_nearest_label_says(tmp_path: Path) -> None:
    (answer,) = answers(opened(fake_zero_shot(tmp_path)), asking(6))
    assert named(answer) == ["8 dogs", "7 cats", "9 birds"]
    assert isinstance(answer.output, ClassificationOutput)
    scores = [item.score for item in answer.output.labels]
    assert scores == pytest.approx(np.array([np.exp(10), 1, 1]) / (np.exp(10) + 2), abs=1e-6)


def test_all_labels_come_back_unless_fewer_are_asked_for(tmp_path: Path) -> None:
    model = opened(fake_zero_shot(tmp_path))
    many = tuple(f"label {number}" for number in range(300))
    every, few = answers(model, asking(6, many), asking(6, top_k=1))
    assert sorted(named(every)) == sorted(many)
    assert named(few) == ["8 dogs"]


def test_the_template_of_the_request_goes_before_the_models(tmp_path: Path) -> None:
    model = opened(fake_zero_shot(tmp_path))
    theirs, ours = answers(model, asking(6, hypothesis_template="7 {}"), asking(6, ("{0} is no field", "8")))
    assert isinstance(theirs.output, ClassificationOutput)
    assert {item.score for item in theirs.output.labels} == {0.333333}
    assert named(ours) == ["8", "{0} is no field"]


def test_the_same_model_embeds_texts_and_images_in_one_space(tmp_path: Path) -> None:
    model = opened(fake_zero_shot(tmp_path))
    text, image = answers(
        model, text_request("8 dogs", model="fake-captions"), image_request(6, task="embeddings", model="fake-captions")
    )
    assert text.output == image.output == EmbeddingOutput(embedding=(0, 0, 0, 0, 0, 0, 1, 0, 0, 0))
    assert (text.usage, image.usage) == (Usage(prompt_tokens=7, completion_tokens=0, total_tokens=7), None)


def test_a_batch_of_all_kinds_is_one_run_of_images_and_one_of_each_texts_length(tmp_path: Path) -> None:
    backend = Counting()
    model = opened(fake_zero_shot(tmp_path), backend)
    backend.shapes.clear()
    found = answers(
        model,
        asking(6),
        text_request("8", task="embeddings"),
        image_request(7, task="embeddings"),
        asking(7, ("9", "8 dogs")),
        text_request("9" * 20, task="embeddings"),
    )
    assert sorted(backend.shapes) == [(1, 16), (1, 32), (3, 8, 8, 1), (4, 16)]
    assert (named(found[0])[0], named(found[3])[0]) == ("8 dogs", "9")
    assert isinstance(found[1].output, EmbeddingOutput)


def test_labels_are_embedded_once_and_every_model_load_begins_anew(tmp_path: Path) -> None:
    backend = Counting()
    model = opened(fake_zero_shot(tmp_path), backend)
    backend.shapes.clear()
    answers(model, asking(6))
    answers(model, asking(7))
    assert backend.shapes == [(1, 8, 8, 1), (3, 16), (1, 8, 8, 1)]
    model.open()
    backend.shapes.clear()
    answers(model, asking(7))
    assert backend.shapes == [(1, 8, 8, 1), (3, 16)]


def test_a_blank_run_uses_both_graphs_every_time(tmp_path: Path) -> None:
    backend = Counting()
    model = opened(fake_zero_shot(tmp_path), backend)
    backend.shapes.clear()
    for _ in range(2):
        model.run([model.blank()])
    assert backend.shapes == [(1, 8, 8, 1), (1, 16)] * 2


def test_an_image_without_labels_is_told_what_is_missing(tmp_path: Path) -> None:
    model = opened(fake_zero_shot(tmp_path))
    with pytest.raises(PrepareError, match="needs candidate_labels") as refused:
        model.prepare(asking(6, ()))
    assert refused.value.where == "$.candidate_labels"


def test_a_label_that_is_too_long_is_named_by_its_place(tmp_path: Path) -> None:
    model = opened(fake_zero_shot(tmp_path))
    with pytest.raises(PrepareError, match="has 101 tokens") as refused:
        model.prepare(asking(6, ("short", "x" * 100)))
    assert refused.value.where == "$.candidate_labels[1]"


def test_an_image_with_many_labels_weighs_more(tmp_path: Path) -> None:
    model = opened(fake_zero_shot(tmp_path))
    weights = [model.prepare(asking(6, tuple(f"{n}" for n in range(count))))[1] for count in (1, 1_000)]
    assert weights[1] > 900 * weights[0]


def test_an_embedding_that_is_no_number_is_the_records_error(tmp_path: Path) -> None:
    model = opened(fake_zero_shot(tmp_path))
    request = asking(6)
    item, _ = model.prepare(request)
    (row,) = model.run([item])
    bad, zero = np.full(10, np.nan, np.float32), np.zeros(10, np.float32)
    broken_rows = [replace(row, image=bad), *(replace(row, labels=(*row.labels[:2], last)) for last in (bad, zero))]
    for broken in broken_rows:
        with pytest.raises(InferenceError, match="no finite embedding"):
            model.settle(request, item, broken, 1)


def test_a_variant_without_the_graph_of_texts_is_refused(tmp_path: Path) -> None:
    model = fake_zero_shot(tmp_path)
    variants = {"int8": replace(model.card.variants["int8"], parts={})}
    with pytest.raises(ModelError, match="has no part 'text'"):
        opened(replace(model, card=replace(model.card, variants=variants)))
