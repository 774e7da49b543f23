from __future__ import annotations

import re

import numpy as np
import pytest

from tools.tiny.captions import NUMBER_WORDS, caption, listed
from tools.tiny.questions import QUESTIONS, asked


def captions_of(*labels: int) -> set[str]:
    rng = np.random.default_rng(0)
    return {caption(labels, rng) for _ in range(300)}


def test_a_caption_names_every_digit_in_words_or_figures_from_left_to_right() -> None:
    in_order = re.compile(r"7.* 1.* 4|seven.* one.* four")
    assert [text for text in captions_of(7, 1, 4) if not in_order.search(text)] == []


def test_the_same_digits_are_said_in_many_ways() -> None:
    assert len(captions_of(3)) > 15
    assert {"a photo of a three", "the digit 3"} <= captions_of(3)
    assert "two digits: an 8 and a 7" in captions_of(8, 7)


@pytest.mark.parametrize(
    ("names", "text"), [(["3"], "3"), (["3", "7"], "3 and 7"), (["3", "7", "1"], "3, 7 and 1")], ids=["1", "2", "3"]
)
def test_names_are_listed_as_one_says_them(names: list[str], text: str) -> None:
    assert listed(names) == text


def test_questions_are_answered_from_left_to_right() -> None:
    answers = {question.name: question.answer((2, 9, 4)) for question in QUESTIONS}
    assert answers == {"read": "2, 9 and 4", "count": "three", "left": "2", "right": "4", "largest": "9"}


def test_a_scene_is_asked_every_question_once_in_changing_orders_and_wordings() -> None:
    rng = np.random.default_rng(0)
    rounds = [asked((5, 0), rng) for _ in range(20)]
    assert {len(pairs) for pairs in rounds} == {len(QUESTIONS)}
    assert len({tuple(question for question, _ in pairs) for pairs in rounds}) == 20
    assert all(sorted(answer for _, answer in pairs) == sorted(["5 and 0", "two", "5", "0", "5"]) for pairs in rounds)


def test_all_ten_digits_have_a_word() -> None:
    assert [captions_of(digit) & {f"the number {NUMBER_WORDS[digit]}"} for digit in range(10)] == [
        {f"the number {word}"} for word in NUMBER_WORDS
    ]
