from __future__ import annotations

import re
from collections import Counter

import numpy as np

from tools.tiny.phrasings import INTENTS, LANGUAGES, Phrasing, message_of, plain_message, read_intents

SPLIT = read_intents()
ALL = SPLIT.train + SPLIT.held_out


def test_no_held_out_phrasing_is_trained_on() -> None:
    trained = {template for phrasing in SPLIT.train for template in phrasing.templates}
    assert [phrasing for phrasing in SPLIT.held_out if trained & set(phrasing.templates)] == []


def test_every_intent_has_phrasings_on_both_sides_in_both_languages() -> None:
    for side, least in ((SPLIT.train, 15), (SPLIT.held_out, 2)):
        counts = Counter((phrasing.intent, phrasing.language) for phrasing in side)
        assert set(counts) == {(intent, language) for intent in INTENTS for language in LANGUAGES}
        assert min(counts.values()) >= least


def test_the_same_phrasings_are_held_out_each_time() -> None:
    assert read_intents() == SPLIT


def test_a_message_has_no_choice_left_no_slot_and_no_space_before_its_end() -> None:
    rng = np.random.default_rng(0)
    texts = [say(phrasing, rng) for phrasing in ALL for say in (plain_message, message_of)]
    assert all(text.strip() for text in texts)
    assert [text for text in texts if re.search(r"[\[\]{}|]| [?!.,]", text)] == []


def test_one_phrasing_is_many_messages() -> None:
    phrasing = Phrasing(intent="delivery", language="en", templates=("[Where is|Where's] my {product}[ now|]?",))
    rng = np.random.default_rng(0)
    said = {plain_message(phrasing, rng) for _ in range(60)}
    assert len(said) > 20
    assert all(re.fullmatch(r"Where('s| is) my [a-z ]+\?", text) for text in said)
