"""What the cards of the shipped models say of held-out data is what comes out when they are asked."""

from __future__ import annotations

import pytest

from pipeline.models.cardfile import read_card
from pipeline.models.store import SHIPPED, ServedModel

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tools.tiny.clip import CLIP
from tools.tiny.finder import FINDER
from tools.tiny.intent import INTENT
from tools.tiny.made import MOST_LOST, TinyModel
from tools.tiny.reader import READER

# Processors without VNNI round INT8 products otherwise, and a few held-out answers hang on that.
OTHER_ROUNDING = 0.015
LEAST = {
    "intents-tiny": {"accuracy": 0.75},
    "digit-finder-tiny": {"recall": 0.95, "precision": 0.95},
    "digit-clip-tiny": {"words_accuracy": 0.95, "figures_accuracy": 0.95, "plain_accuracy": 0.95},
    "digit-reader-tiny": {"accuracy": 0.95},
}
MODELS = [INTENT, FINDER, CLIP, READER]


def shipped(tiny: TinyModel) -> ServedModel:
    folder = SHIPPED / tiny.name / "1.0.0"
    return ServedModel(card=read_card(folder), folder=folder)


@pytest.mark.parametrize("tiny", MODELS, ids=lambda tiny: tiny.name)
def test_held_out_answers_are_as_right_as_the_card_says(tiny: TinyModel) -> None:
    model = shipped(tiny)
    told, found = model.card.variants["int8"].measured, tiny.measure(model, "int8")
    assert {name: told[name] for name in found} == pytest.approx(found, abs=OTHER_ROUNDING)
    assert all(found[name] >= least for name, least in LEAST[tiny.name].items())


@pytest.mark.parametrize("tiny", MODELS, ids=lambda tiny: tiny.name)
def test_int8_loses_at_most_a_point_and_its_answers_do_not_depend_on_company(tiny: TinyModel) -> None:
    told = shipped(tiny).card.variants["int8"].measured
    assert all(told[name] >= told[f"fp32_{name}"] - MOST_LOST for name in LEAST[tiny.name])
    assert told["max_difference_in_other_batches"] == 0
