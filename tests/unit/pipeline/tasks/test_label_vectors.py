from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.runtime.session import Floats
from pipeline.tasks.label_vectors import LabelVectors
from pipeline.tasks.text_batch import Tokens


class Encoder:
    """Notes what it has to encode; token 0 makes no number."""

    def __init__(self) -> None:
        self.asked: list[list[Tokens]] = []

    def __call__(self, texts: Sequence[Tokens]) -> list[Floats]:
        self.asked.append(list(texts))
        return [np.array([text[0] or np.nan], np.float32) for text in texts]


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


def test_a_label_is_encoded_once_however_often_it_is_asked_for(encoder: Encoder) -> None:
    labels = LabelVectors(encoder, kept=10)
    assert labels.of([(1,), (2,), (1,)]) == {(1,): [1], (2,): [2]}
    assert labels.of([(2,), (3,), (1,)]) == {(1,): [1], (2,): [2], (3,): [3]}
    assert encoder.asked == [[(1,), (2,)], [(3,)]]


def test_nothing_is_run_when_every_label_is_known_or_there_is_none(encoder: Encoder) -> None:
    labels = LabelVectors(encoder, kept=10)
    labels.of([(1,)])
    assert labels.of([(1,)]) == {(1,): [1]}
    assert labels.of([]) == {}
    assert len(encoder.asked) == 1


def test_the_least_recently_used_is_forgotten_and_more_than_are_kept_may_be_asked_for(encoder: Encoder) -> None:
    labels = LabelVectors(encoder, kept=2)
    assert len(labels.of([(1,), (2,), (3,)])) == 3
    labels.of([(2,)])
    labels.of([(4,)])
    labels.of([(2,), (3,)])
    assert encoder.asked == [[(1,), (2,), (3,)], [(4,)], [(3,)]]


def test_a_vector_that_is_no_number_is_given_and_not_kept(encoder: Encoder) -> None:
    labels = LabelVectors(encoder, kept=2)
    for _ in range(2):
        assert np.isnan(labels.of([(0,)])[(0,)]).all()
    assert len(encoder.asked) == 2
