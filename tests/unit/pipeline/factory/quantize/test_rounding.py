"""Columns rounded together lose less on inputs that go together, and keep to their bounds."""

from __future__ import annotations

import numpy as np

from pipeline.factory.quantize.rounding import round_together

RNG = np.random.default_rng(8)
WEIGHT = RNG.normal(0, 1, (24, 33))
SCALES = np.abs(WEIGHT).max(axis=1) / 20
# Inputs of few directions, as those of neural networks are.
INPUTS = RNG.normal(0, 1, (400, 6)) @ RNG.normal(0, 1, (6, 33)) + RNG.normal(0, 0.1, (400, 33))


def error(values: np.ndarray) -> float:
    return float(np.square(INPUTS @ (values * SCALES[:, None] - WEIGHT).T).mean())


def test_the_outputs_move_less_than_by_rounding_each_weight_alone() -> None:
    together = round_together(WEIGHT, SCALES, INPUTS.T @ INPUTS / len(INPUTS), 127, paired=False)
    assert together.dtype == np.int8
    assert error(together) < 0.5 * error(np.rint(WEIGHT / SCALES[:, None]))


def test_neighbours_keep_within_16_bit_sums_even_when_errors_push_them_out() -> None:
    scales = np.abs(WEIGHT).max(axis=1) / 120
    values = round_together(WEIGHT, scales, INPUTS.T @ INPUTS, 127, paired=True).astype(int)
    pairs = np.pad(values, ((0, 0), (0, 1))).reshape(24, -1, 2)
    assert np.maximum(pairs, 0).sum(axis=2).max() <= 128
    assert np.minimum(pairs, 0).sum(axis=2).min() >= -128


def test_a_channel_that_is_always_zero_is_no_obstacle() -> None:
    products = INPUTS.T @ INPUTS
    products[4] = products[:, 4] = 0
    assert np.isfinite(round_together(WEIGHT, SCALES, products, 127, paired=False)).all()
