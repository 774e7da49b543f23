from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tools.tiny import corpus
from tools.tiny.corpus import Dialogue, draw, messages_of, read_split

SPLIT = read_split()
ALL = SPLIT.train + SPLIT.held_out
TOPICS = {
    "account", "complaints", "delivery", "general", "hours", "orders", "payment", "products", "questions", "refunds",
    "returns", "subscriptions", "technical",
}  # fmt: skip
SLOTTED = Dialogue(id="x", topic="t", language="en", turns=("Where is {order}?", "Order {order} comes on {day}."))


def test_a_few_hundred_dialogues_cover_every_topic_in_both_languages() -> None:
    assert len(ALL) >= 400
    assert {(d.topic, d.language) for d in ALL} == {(topic, language) for topic in TOPICS for language in ("en", "zh")}


def test_no_dialogue_is_written_twice() -> None:
    counts = Counter(d.turns for d in ALL)
    assert [turns for turns, count in counts.items() if count > 1] == []


def test_the_first_question_of_a_held_out_dialogue_is_never_trained_on() -> None:
    trained = {question for d in SPLIT.train for question in (d.turns[0], *d.also)}
    assert [d.id for d in SPLIT.held_out if trained & {d.turns[0], *d.also}] == []


def test_about_a_tenth_is_held_out_and_it_is_the_same_tenth_each_time() -> None:
    assert 0.07 < len(SPLIT.held_out) / len(ALL) < 0.13
    assert read_split() == SPLIT


@pytest.mark.parametrize("dialogue", ALL, ids=lambda d: d.id)
def test_every_slot_can_be_filled(dialogue: Dialogue) -> None:
    rng = np.random.default_rng(0)
    drawn = [messages_of(dialogue, rng), *(draw(dialogue, rng) for _ in range(5))]
    text = " ".join(message.content for messages in drawn for message in messages)
    assert not re.search(r"[{}]", text)


def test_a_slot_has_one_value_in_a_dialogue_and_another_in_the_next_drawing() -> None:
    rng = np.random.default_rng(3)
    drawn = [re.findall(r"\d{5}", " ".join(m.content for m in draw(SLOTTED, rng))) for _ in range(5)]
    assert all(first == second for first, second in drawn)
    assert len({numbers[0] for numbers in drawn}) == 5


def test_a_dialogue_that_the_customer_ends_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "orders.en.jsonl").write_text('{"id": "a", "turns": ["Hi", "Hello", "Bye"]}\n', encoding="utf-8")
    monkeypatch.setattr(corpus, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match="a must end with the assistant"):
        read_split()
