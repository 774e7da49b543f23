from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tasks.vectors import embedding_output, shortest, unit
from schemas.errors import InferenceError

FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8)


@given(values=FLOATS)
def test_numbers_are_read_back_as_the_same_float32(values: list[float]) -> None:
    vector = np.array(values, np.float32)
    read = np.array(json.loads(json.dumps(shortest(vector))), np.float32)
    assert (read == vector).all()


@given(values=st.lists(st.floats(-1, 1, width=32).filter(lambda value: abs(value) > 1e-12), min_size=1, max_size=8))
def test_numbers_are_written_with_no_more_digits_than_numpy_needs(values: list[float]) -> None:
    vector = np.array(values, np.float32)
    assert list(shortest(vector)) == [float(str(value)) for value in vector]


def test_an_embedding_is_scaled_to_unit_length() -> None:
    assert embedding_output(np.array([3, 0, -4], np.float32)).embedding == (0.6, 0.0, -0.8)
    assert np.linalg.norm(unit(np.full(384, 1e-30, np.float32))) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("bad", [[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_a_vector_without_a_direction_is_the_records_error(bad: list[float]) -> None:
    with pytest.raises(InferenceError, match="no finite embedding"):
        embedding_output(np.array(bad, np.float32))
