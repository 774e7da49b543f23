from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.factory.gates.decoders import compare_decoders, gate_texts, greedy, predictions
from pipeline.factory.gates.gate import broken_bounds
from pipeline.factory.gates.gates import default_gate
from pipeline.runtime.fakes import FakeDecoder
from pipeline.runtime.session import CacheLayout, Floats, IntArray, Logits

LAYOUT = CacheLayout(layers=1, slots=2, kv_heads=1, max_length=16, head_size=1, vocabulary=3)


class Fixed:
    """Predicts the same distribution after every token."""

    provider = "cpu"

    def __init__(self, *shares: float) -> None:
        self._logits = np.log(np.array(shares, np.float32))

    def step(self, first: int, input_ids: IntArray, lengths: IntArray, image_embeds: Floats | None = None) -> Logits:
        logits: npt.NDArray[np.float32] = np.tile(self._logits, (len(input_ids), 1))
        return logits

    def move(self, source: int, target: int, length: int) -> None:
        raise NotImplementedError


class Leaky(FakeDecoder):
    """Adds the number of rows to every logit."""

    def step(self, first: int, input_ids: IntArray, lengths: IntArray, image_embeds: Floats | None = None) -> Logits:
        return super().step(first, input_ids, lengths) + len(input_ids)


class Hasty(Fixed):
    """Predicts something else of what it reads at once."""

    def step(self, first: int, input_ids: IntArray, lengths: IntArray, image_embeds: Floats | None = None) -> Logits:
        logits = super().step(first, input_ids, lengths)
        return logits[:, ::-1] if input_ids.shape[1] > 1 else logits


IDS = np.array([[0, 1, 1, 0], [2, 1, 0, 1]])


def test_equal_decoders_agree_and_do_not_diverge() -> None:
    measured = compare_decoders(predictions(Fixed(0.5, 0.25, 0.25), IDS), Fixed(0.5, 0.25, 0.25), IDS)
    assert measured["top1_agreement"] == 1
    assert measured["mean_kl"] == 0
    assert measured["positions"] == 6
    assert measured["samples"] == 2
    # 2 of the 6 tokens that follow are 0: (1/2)^2 * (1/4)^4 in all
    assert measured["perplexity"] == measured["fp32_perplexity"] == pytest.approx(2 ** (10 / 6), abs=1e-3)


def test_the_figures_are_those_of_the_formulas() -> None:
    measured = compare_decoders(predictions(Fixed(0.5, 0.25, 0.25), IDS), Fixed(0.25, 0.5, 0.25), IDS)
    assert measured["top1_agreement"] == 0
    assert measured["mean_kl"] == pytest.approx(0.5 * np.log(2) - 0.25 * np.log(2), abs=1e-6)
    assert measured["fp32_perplexity"] > measured["perplexity"] == pytest.approx(2 ** (8 / 6), abs=1e-3)


def test_prompts_that_are_read_otherwise_than_steps_are_told() -> None:
    full = Fixed(0.5, 0.25, 0.25)
    assert compare_decoders(predictions(full, IDS), full, IDS)["prompt_mean_kl"] == 0
    measured = compare_decoders(predictions(full, IDS), Hasty(0.5, 0.25, 0.25), IDS)
    assert measured["mean_kl"] == 0
    assert measured["prompt_mean_kl"] == pytest.approx(0.25 * np.log(2), abs=1e-6)
    assert broken_bounds(measured, default_gate("text-generation")) == [
        "prompt_mean_kl is 0.173287, at most 0.02 is asked"
    ]


def test_a_decoder_whose_answers_depend_on_company_is_told_from_one_whose_do_not() -> None:
    fake, leaky = FakeDecoder(LAYOUT), Leaky(LAYOUT)
    assert compare_decoders(predictions(fake, IDS), fake, IDS)["max_difference_in_other_batches"] == 0
    assert compare_decoders(predictions(fake, IDS), leaky, IDS)["max_difference_in_other_batches"] == 1


def test_greedy_stops_at_the_end_and_at_the_count() -> None:
    decoder = FakeDecoder(LAYOUT)  # echoes its prompt, then ends
    prompt = [1, 2, 256]
    assert greedy(decoder, prompt, 10, lambda token: token == 257) == [1, 2]
    assert greedy(decoder, prompt, 1, lambda token: token == 257) == [1]


def test_the_texts_are_many_and_long_enough_to_compare() -> None:
    texts = gate_texts()
    assert len(texts) == 16
    assert min(len(text.split()) for text in texts) >= 50
