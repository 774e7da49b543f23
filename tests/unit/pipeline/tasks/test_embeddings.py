from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.models.card import EncoderSpec
from pipeline.runtime.fakes import fake_embedder
from schemas.errors import PrepareError
from schemas.messages import ChatMessage, EmbeddingOutput, Usage
from tests.unit.pipeline.helpers import answers, opened, text_request


def test_a_text_becomes_a_vector_and_its_tokens_are_counted(tmp_path: Path) -> None:
    message = ChatMessage(role="user", content="7 is a number")
    alone, said = answers(
        opened(fake_embedder(tmp_path)), text_request("7"), text_request(prompt=None, messages=(message,))
    )
    assert alone.output == said.output == EmbeddingOutput(embedding=(0, 0, 0, 0, 0, 1, 0, 0, 0, 0))
    assert said.usage == Usage(prompt_tokens=14, completion_tokens=0, total_tokens=14)
    assert said.batch_size == 2


def test_a_text_that_is_too_long_is_refused_and_not_cut_in_silence(tmp_path: Path) -> None:
    with pytest.raises(PrepareError, match="has 65 tokens, and this model reads 64"):
        opened(fake_embedder(tmp_path)).prepare(text_request("a" * 64))


def test_a_vector_of_other_dimensions_than_the_cards_stops_the_start(tmp_path: Path) -> None:
    model = fake_embedder(tmp_path)
    encoder = EncoderSpec(tokenizer="tokenizer.json", max_length=64, dimensions=384)
    with pytest.raises(ModelError, match=r"shape \(10,\), but the card says 384"):
        opened(replace(model, card=replace(model.card, encoder=encoder)))
