from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.models.card import EncoderSpec
from pipeline.runtime.fakes import FakeBackend, fake_text_classifier
from pipeline.tasks.labels import sigmoid, softmax
from pipeline.tasks.task import Answer
from schemas.errors import InferenceError, PrepareError
from schemas.messages import ChatMessage, ClassificationOutput, Label, Usage
from tests.unit.pipeline.helpers import answers, image_request, opened, text_request


def labels(answer: Answer) -> tuple[Label, ...]:
    assert isinstance(answer.output, ClassificationOutput)
    return answer.output.labels


def test_a_text_gets_its_labels_best_first_and_the_tokens_it_has(tmp_path: Path) -> None:
    long, short = answers(
        opened(fake_text_classifier(tmp_path)), text_request("7 and much more", top_k=2), text_request("3")
    )
    assert [item.label for item in labels(long)] == ["5", "0"]  # ord("7") is 55
    assert labels(long)[0].score == pytest.approx(np.e / (np.e + 9), abs=1e-6)
    assert long.usage == Usage(prompt_tokens=16, completion_tokens=0, total_tokens=16)
    assert len(labels(short)) == 5


def test_labels_that_do_not_exclude_each_other_have_scores_of_their_own(tmp_path: Path) -> None:
    model = fake_text_classifier(tmp_path)
    encoder = EncoderSpec(tokenizer="tokenizer.json", max_length=64, labels="labels.txt", multi_label=True)
    model = replace(model, card=replace(model.card, encoder=encoder))
    (answer,) = answers(opened(model), text_request("7", top_k=10))
    assert [item.score for item in labels(answer)] == pytest.approx([1 / (1 + np.exp(-1)), *[0.5] * 9], abs=1e-6)


def test_scores_hold_for_any_logits() -> None:
    extreme = np.array([-3e38, 0, 3e38], np.float32)
    assert sigmoid(extreme).tolist() == [0.0, 0.5, 1.0]
    assert softmax(extreme).tolist() == [0.0, 0.0, 1.0]


def test_a_conversation_and_an_image_are_refused(tmp_path: Path) -> None:
    model = opened(fake_text_classifier(tmp_path))
    turn = ChatMessage(role="user", content="hi")
    with pytest.raises(PrepareError, match="reads one text"):
        model.prepare(text_request(prompt=None, messages=(turn, turn)))
    with pytest.raises(PrepareError, match="reads text, and the record holds an image"):
        model.prepare(image_request())


def test_logits_that_are_no_numbers_are_the_records_error(tmp_path: Path) -> None:
    model = opened(fake_text_classifier(tmp_path))
    request = text_request()
    item, _ = model.prepare(request)
    with pytest.raises(InferenceError, match="no finite scores"):
        model.settle(request, item, np.array([np.nan, 1], np.float32), 1)


def test_a_graph_that_does_not_fit_the_labels_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"logits of shape \(9,\), but .*labels.txt has 10 labels"):
        opened(fake_text_classifier(tmp_path), FakeBackend(classes=9))
