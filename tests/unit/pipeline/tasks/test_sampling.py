from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.tasks.sampling import choose_token, generator

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))


def draw(
    times: int, temperature: float = 1.0, top_p: float = 1.0, logits: npt.NDArray[np.float32] = LOGITS
) -> Counter[int]:
    random = generator(7, "")
    return Counter(choose_token(logits, temperature, top_p, random) for _ in range(times))


def test_temperature_0_takes_the_likeliest() -> None:
    assert draw(50, temperature=0.0) == {0: 50}


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-9])
def test_the_lowest_temperatures_take_the_likeliest_too_and_share_between_equals(temperature: float) -> None:
    assert draw(50, temperature=temperature) == {0: 50}
    assert draw(50, temperature=temperature, top_p=0.5) == {0: 50}
    impossible = np.array([-np.inf, 1.0, 1.0, 0.9], np.float32)
    assert set(draw(200, temperature=temperature, logits=impossible)) == {1, 2}


def test_tokens_come_as_often_as_they_are_likely() -> None:
    counts = draw(20_000)
    for token, probability in enumerate((0.5, 0.3, 0.15, 0.05)):
        assert counts[token] / 20_000 == pytest.approx(probability, abs=0.015)


def test_temperature_sharpens_and_flattens() -> None:
    squares = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    assert draw(20_000, temperature=0.5)[0] / 20_000 == pytest.approx(squares[0] / squares.sum(), abs=0.015)
    roots = np.sqrt([0.5, 0.3, 0.15, 0.05])
    assert draw(20_000, temperature=2.0)[3] / 20_000 == pytest.approx(roots[3] / roots.sum(), abs=0.015)


@pytest.mark.parametrize(("top_p", "inside"), [(0.4, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2}), (0.99, {0, 1, 2, 3})])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, inside: set[int]) -> None:
    counts = draw(5_000, top_p=top_p)
    assert set(counts) == inside


def test_top_p_keeps_the_proportions_of_what_is_left() -> None:
    assert draw(20_000, top_p=0.6)[0] / 20_000 == pytest.approx(0.5 / 0.8, abs=0.015)


def test_a_tiny_top_p_still_leaves_one_of_equally_likely_tokens() -> None:
    assert draw(10, top_p=1e-9, logits=np.zeros(1_000, np.float32)) == {0: 10}


def test_impossible_tokens_are_never_drawn() -> None:
    assert set(draw(500, logits=np.array([-np.inf, 1.0, -np.inf], np.float32))) == {1}


def test_a_seed_gives_the_same_tokens_again_and_another_gives_others() -> None:
    flat = np.zeros(1_000, np.float32)
    first, again, other = (
        [choose_token(flat, 1.0, 1.0, random) for _ in range(20)]
        for random in (generator(1, "aa"), generator(1, "bb"), generator(2, "aa"))
    )
    assert first == again != other


def test_without_a_seed_the_outcome_decides_so_that_a_repeat_is_equal() -> None:
    assert generator(None, "aa").random() == generator(None, "aa").random() != generator(None, "ab").random()


def test_a_token_does_not_depend_on_the_row_that_its_logits_stand_in() -> None:
    rows = np.tile(np.random.default_rng(0).standard_normal(1_001).astype(np.float32), (9, 1))
    assert len({choose_token(row, 0.8, 0.9, generator(3, "")) for row in rows}) == 1
