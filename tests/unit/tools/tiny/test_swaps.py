from __future__ import annotations

import re

import numpy as np
import pytest

from tools.tiny.corpus import FOLDER
from tools.tiny.swaps import read_swaps, swap_phrases

SWAPS = read_swaps(FOLDER / "swaps.toml")


def said(text: str, language: str) -> set[str]:
    rng = np.random.default_rng(0)
    return {swap_phrases(text, SWAPS[language], rng) for _ in range(40)}


def test_phrases_are_said_in_other_words_and_as_written() -> None:
    assert said("Is it free of charge?", "en") == {"Is it free of charge?", "Is it for free?", "Is it at no cost?"}


@pytest.mark.parametrize(
    ("text", "language"),
    [("Drop it at a parcel shop.", "en"), ("How many can I order at once?", "en"), ("这是怎么回事", "zh")],
)
def test_a_phrase_that_means_something_else_is_left_alone(text: str, language: str) -> None:
    assert said(text, language) == {text}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_phrase_looked_for_is_found_in_the_dialogues(language: str) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob(f"*.{language}.jsonl"))
    assert [pattern.pattern for pattern, _ in SWAPS[language] if not re.search(pattern, text)] == []
