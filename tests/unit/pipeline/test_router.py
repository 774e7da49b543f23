from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.models.store import ServedModel
from pipeline.router import find_route
from pipeline.runtime.fakes import (
    fake_classifier,
    fake_detector,
    fake_embedder,
    fake_generator,
    fake_text_classifier,
    fake_zero_shot,
)
from schemas.errors import ModelNotFoundError, PrepareError
from schemas.messages import InferenceRequest
from tests.unit.pipeline.helpers import image_request, text_request


@dataclass
class Lane:
    model: ServedModel


@pytest.fixture
def lanes(tmp_path: Path) -> list[Lane]:
    """One model of each task; the one of several tasks is the first."""
    makers = (fake_zero_shot, fake_classifier, fake_detector, fake_generator, fake_text_classifier, fake_embedder)
    return [Lane(make(tmp_path)) for make in makers]


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (text_request(), "fake-text"),
        (text_request(task="text-classification"), "fake-topics"),
        (text_request(task="embeddings"), "fake-vectors"),
        (text_request(model="fake-topics"), "fake-topics"),
        (text_request(model="fake-captions"), "fake-captions"),
        (text_request(model="fake-captions", task="embeddings"), "fake-captions"),
        (image_request(), "fake-images"),
        (image_request(task="object-detection"), "fake-objects"),
        (image_request(task="embeddings"), "fake-captions"),
        (image_request(model="fake-captions", candidate_labels=("a",)), "fake-captions"),
        (image_request(model="fake-objects", model_version="1"), "fake-objects"),
    ],
)
def test_a_request_goes_to_the_model_of_its_task_or_its_name(
    lanes: list[Lane], request_: InferenceRequest, name: str
) -> None:
    assert find_route(request_, lanes).model.card.name == name


def test_a_model_whose_own_task_it_is_goes_before_one_that_can_do_it_too(lanes: list[Lane]) -> None:
    without_it = lanes[:-1]
    assert find_route(text_request(task="embeddings"), without_it).model.card.name == "fake-captions"
    assert find_route(text_request(task="embeddings"), lanes).model.card.name == "fake-vectors"


@pytest.mark.parametrize(
    ("request_", "where", "said"),
    [
        (text_request(model="fake-images"), "$.model", "'fake-images' does not take prompts. Send images to it."),
        (image_request(model="fake-vectors"), "$.model", "'fake-vectors' does not take images. Send prompts to it."),
        (
            image_request(model="fake-vectors", task="embeddings"),
            "$.task",
            "model 'fake-vectors' for embeddings of images is not served here",
        ),
        (
            text_request(model="fake-topics", task="embeddings"),
            "$.task",
            "fake-captions@1 (zero-shot-image-classification, embeddings)",
        ),
        (image_request(task="image-to-text"), "$.task", "any model for image-to-text of images"),
    ],
)
def test_a_model_that_does_not_do_what_is_asked_is_named_with_what_is_served(
    lanes: list[Lane], request_: InferenceRequest, where: str, said: str
) -> None:
    with pytest.raises(ModelNotFoundError) as refused:
        find_route(request_, lanes)
    assert refused.value.where == where
    assert said in refused.value.message


@pytest.mark.parametrize(
    ("fields", "where", "said"),
    [
        ({"candidate_labels": ("a",)}, "$.candidate_labels", "Set 'task' to 'zero-shot-image-classification'"),
        ({"candidate_labels": ("a",), "model": "fake-objects"}, "$.candidate_labels", "asks for object-detection"),
        ({"candidate_labels": ("a",), "task": "embeddings"}, "$.candidate_labels", "asks for embeddings"),
        ({"prompt": "What?"}, "$.prompt", "prompt is for image-to-text"),
    ],
)
def test_a_question_that_the_task_would_leave_unanswered_is_refused(
    lanes: list[Lane], fields: dict[str, Any], where: str, said: str
) -> None:
    with pytest.raises(PrepareError) as refused:
        find_route(image_request(**fields), lanes)
    assert refused.value.where == where
    assert said in refused.value.message


def test_settings_that_a_task_has_no_use_for_are_no_question(lanes: list[Lane]) -> None:
    request = image_request(threshold=0.1, hypothesis_template="{}", seed=1, stream=True, max_tokens=3)
    assert find_route(request, lanes).model.card.name == "fake-images"
